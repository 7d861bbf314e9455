//! The invariants of docs/ARCHITECTURE.md, checked over `cargo metadata` and the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// Each room and the rooms it may use, top to bottom.
const ROOMS: &[(&str, &[&str])] = &[
    ("common", &[]),
    ("proto", &["common"]),
    ("model", &["common"]),
    ("prune", &["common", "model"]),
    ("plan", &["common"]),
    ("update", &["common", "model"]),
    ("engine", &["common", "model"]),
    ("agent", &["common", "proto", "model", "update", "engine"]),
    ("coordinator", &["common", "proto", "model", "prune", "plan", "update", "engine"]),
    ("cli", &["common", "proto", "model", "prune", "plan", "update", "engine", "agent", "coordinator"]),
    (
        "tests",
        &["common", "proto", "model", "prune", "plan", "update", "engine", "agent", "coordinator", "cli"],
    ),
];

/// Rooms without I/O, clock and randomness: everything is an argument.
const PURE: &[&str] = &["common", "proto", "model", "prune", "plan", "update"];

/// Crates that a pure room must not depend on.
const SHELL_CRATES: &[&str] =
    &["tokio", "sled", "redb", "rand", "getrandom", "fastrand", "tempfile", "chrono", "time", "reqwest"];

/// What a pure room's sources must not say, outside its tests, with the reason.
const PURE_BANS: &[(&str, &str)] = &[
    ("std::fs", "files are the shells' business"),
    ("std::net", "sockets are the shells' business"),
    ("std::env", "the environment is an argument"),
    ("std::process", "processes are the shells' business"),
    ("Instant::now", "time is an argument"),
    ("SystemTime::now", "time is an argument"),
    ("thread_rng", "seeds are arguments"),
    ("RandomState", "its order differs from run to run"),
    ("Uuid::new_v4", "ids are arguments"),
];

#[test]
fn a_room_uses_only_rooms_that_it_may() {
    let metadata = workspace();
    let members: BTreeMap<String, _> =
        metadata.workspace_packages().into_iter().map(|p| (room_of(&p.manifest_path), p)).collect();
    let known: BTreeSet<&str> = ROOMS.iter().map(|(room, _)| *room).collect();
    let found: BTreeSet<&str> = members.keys().map(String::as_str).collect();
    assert_eq!(found, known, "the rooms of the workspace are those of docs/ARCHITECTURE.md");
    for (room, may) in ROOMS {
        for dependency in members[*room].dependencies.iter().filter(|d| d.kind == DependencyKind::Normal) {
            if let Some(path) = &dependency.path {
                let used = path.file_name().unwrap_or_default();
                assert!(may.contains(&used), "{room} uses {used}, which it must not know");
            }
        }
    }
}

#[test]
fn the_agent_never_links_the_pruner_or_the_planner() {
    let metadata = workspace();
    let resolve = metadata.resolve.as_ref().expect("a resolved graph");
    let agent = metadata.workspace_packages().into_iter().find(|p| p.name.as_str() == "secateur-agent");
    let agent = &agent.expect("the agent is a member").id;
    let mut seen = BTreeSet::from([agent]);
    let mut waiting = vec![agent];
    while let Some(id) = waiting.pop() {
        let node = resolve.nodes.iter().find(|node| &node.id == id).expect("a node for each package");
        for dependency in &node.deps {
            let linked = dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal);
            if linked && seen.insert(&dependency.pkg) {
                waiting.push(&dependency.pkg);
            }
        }
    }
    for id in seen {
        let name = metadata[id].name.as_str();
        let banned = ["secateur-prune", "secateur-plan", "secateur-coordinator", "redb"];
        assert!(!banned.contains(&name), "the agent links {name}");
    }
}

#[test]
fn pure_rooms_have_no_io_no_clock_and_no_randomness() {
    for package in workspace().workspace_packages() {
        let room = room_of(&package.manifest_path);
        if !PURE.contains(&room.as_str()) {
            continue;
        }
        for dependency in package.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal) {
            let name = dependency.name.as_str();
            let shell = SHELL_CRATES.contains(&name) || (name == "tonic" && room != "proto");
            assert!(!shell, "{room} depends on {name}");
        }
        for (path, text) in sources(&room) {
            for (line, content) in code(&text) {
                for (banned, why) in PURE_BANS {
                    assert!(!content.contains(banned), "{}:{line} says `{banned}`: {why}", path.display());
                }
            }
        }
    }
}

#[test]
fn only_the_engine_may_hold_unsafe_code() {
    for (room, _) in ROOMS.iter().filter(|(room, _)| *room != "engine") {
        for (path, text) in sources(room) {
            if path.ends_with("src/lib.rs") || path.ends_with("src/main.rs") {
                assert!(text.contains("#![forbid(unsafe_code)]"), "{} allows unsafe code", path.display());
            }
        }
    }
}

#[test]
fn wire_types_and_disk_types_stay_at_the_edge() {
    let at_wire = ["agent/src/link", "agent/src/serve", "coordinator/src/grpc", "cli/src/client"];
    let wire_names = ["secateur_proto::v1", "secateur_proto::inference", "tonic::"];
    let at_disk = ["agent/src/cache", "coordinator/src/store"];
    let stands_in =
        |path: &Path, places: &[&str]| places.iter().any(|place| path.to_string_lossy().starts_with(place));
    for room in ["agent", "coordinator", "cli"] {
        for (path, text) in sources(room) {
            for (line, content) in code(&text) {
                let wire = wire_names.iter().any(|name| content.contains(name));
                assert!(!wire || stands_in(&path, &at_wire), "{}:{line} names a wire type", path.display());
                let disk = content.contains("sled::") || content.contains("redb::");
                assert!(!disk || stands_in(&path, &at_disk), "{}:{line} names a disk type", path.display());
            }
        }
    }
}

#[test]
fn no_device_message_has_a_field_for_inputs_or_credentials() {
    let text = std::fs::read_to_string(root().join("proto/secateur/v1/fleet.proto")).expect("the protocol");
    let fields = text.lines().enumerate().filter_map(|(index, line)| {
        let (left, _) = line.split("//").next()?.split_once(" = ")?;
        Some((index + 1, left.split_whitespace().next_back()?))
    });
    let fields: Vec<_> = fields.collect();
    assert!(fields.len() > 40, "the protocol is not read as this test expects");
    for (line, field) in fields {
        let banned = ["input", "inputs", "image", "sample", "raw", "credential", "password", "secret"];
        assert!(!banned.contains(&field), "fleet.proto:{line} has a field `{field}`");
    }
}

#[test]
fn every_source_says_what_lives_there() {
    for (room, _) in ROOMS {
        for (path, text) in sources(room) {
            assert!(text.starts_with("//!"), "{} does not begin with //!", path.display());
        }
    }
}

fn workspace() -> Metadata {
    MetadataCommand::new().manifest_path(root().join("Cargo.toml")).exec().expect("cargo metadata")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ stands in the workspace").to_owned()
}

/// The folder of a workspace member, which is its room's name.
fn room_of(manifest: &cargo_metadata::camino::Utf8Path) -> String {
    manifest.parent().and_then(|folder| folder.file_name()).unwrap_or_default().to_owned()
}

/// The sources of `room`, as (path from the root, text).
fn sources(room: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(room).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a room has sources").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source is text");
                found.push((path.strip_prefix(root()).expect("under the root").to_owned(), text));
            }
        }
    }
    assert!(!found.is_empty(), "{room}/src holds no sources: did it move?");
    found
}

/// The lines of `text` that are the program's: no comments, nothing from its test module on.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
    let lines = text[..end].lines().enumerate().map(|(index, line)| (index + 1, line));
    lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
}
