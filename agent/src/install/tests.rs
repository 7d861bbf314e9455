//! The agent's core on a simulated disk that loses power at its writes and flushes.

use std::collections::BTreeMap;

use secateur_common::Report;
use secateur_model::{OpSet, Tensor, canonical};
use secateur_update::encode;

use super::*;
use crate::cache::simulated::MemoryDisk;
use crate::core::{Step, next};

/// Cuts in a run.
const CUTS: usize = 10_000;

/// Reproducible numbers.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % bound
    }
}

fn graph(shift: usize) -> Graph {
    let values = (0..600).map(|at| ((at * 37 + shift * at % 11) % 101) as f32 - 50.0);
    let tensors = [
        ("a".to_owned(), Tensor::f32([30, 20], values.collect()).unwrap()),
        ("b".to_owned(), Tensor::i64([3], vec![1, 2, shift as i64]).unwrap()),
    ];
    let opsets = vec![OpSet { domain: String::new(), version: 17 }];
    Graph { opsets, initializers: tensors.into_iter().collect(), ..Graph::default() }
}

/// What the coordinator has: some variants, and updates between them.
struct Catalog {
    graphs: BTreeMap<VariantId, Graph>,
}

impl Catalog {
    fn new() -> Self {
        Self { graphs: (1..5).map(graph).map(|graph| (canonical::variant_id(&graph), graph)).collect() }
    }

    fn assignment(&self, variant: VariantId, generation: u64, base: Option<VariantId>) -> (Wanted, Vec<u8>) {
        let generation = Generation(generation);
        let base = base.filter(|&base| base != variant);
        let bytes = encode(base.map(|base| &self.graphs[&base]), &self.graphs[&variant], generation).unwrap();
        let update = UpdateRef { id: Digest::of(&bytes), size: ByteCount(bytes.len() as u64), base };
        (Wanted { generation, model: "m".parse().unwrap(), variant, update: Some(update) }, bytes)
    }
}

/// What the device was told is durable.
#[derive(Default)]
struct Acknowledged {
    partial: u64,
    active: Option<VariantId>,
    accepted: Generation,
    sequence: u64,
    /// Posted, and not yet taken by the coordinator.
    reports: Vec<u64>,
}

/// As the shell does it, with pieces of any size, until the wanted variant is in force or the power goes.
fn bring_about(
    cache: &Cache,
    folder: &Path,
    (wanted, bytes): &(Wanted, Vec<u8>),
    told: &mut Acknowledged,
    dice: &mut Dice,
) -> anyhow::Result<()> {
    loop {
        if dice.below(4) == 0 {
            post(cache, told, dice)?;
        }
        let held = cache.held()?;
        match next(&held, wanted) {
            Step::Rest => return Ok(()),
            Step::RefuseOld | Step::AskForFull => bail!("{:?} from {held:?}", next(&held, wanted)),
            Step::Fetch(update) => {
                cache.accept(wanted.generation)?;
                told.accepted = wanted.generation;
                cache.drop_partials(Some(update.id))?;
                let mut at = cache.partial_bytes(update.id)? as usize;
                while at < bytes.len() {
                    let end = bytes.len().min(at + 1 + dice.below(200));
                    cache.append_partial(update.id, at as u64, &bytes[at..end])?;
                    at = end;
                    if dice.below(3) == 0 {
                        cache.flush()?;
                        told.partial = at as u64;
                    }
                }
                cache.flush()?;
                told.partial = at as u64;
                store(cache, folder, update, wanted)?;
                told.partial = 0;
            }
            Step::Activate => {
                activate(cache, wanted, None)?;
                told.active = Some(wanted.variant);
            }
        }
    }
}

fn post(cache: &Cache, told: &mut Acknowledged, dice: &mut Dice) -> anyhow::Result<()> {
    let Some(active) = cache.held()?.active else { return Ok(()) };
    let sequence = cache.next_sequence(0)?;
    assert!(sequence > told.sequence, "a number was given twice");
    told.sequence = sequence;
    cache.post(&Report {
        sequence,
        model: active.model,
        variant: active.variant,
        generation: active.generation,
        accuracy: Default::default(),
        latency: Default::default(),
        memory: Default::default(),
        sensed: Default::default(),
        model_bytes: ByteCount(0),
        disk_bytes: ByteCount(0),
        wire_bytes: cache.received()?,
        today: Default::default(),
    })?;
    told.reports.push(sequence);
    if told.reports.len() > dice.below(20) {
        let upto = told.reports[told.reports.len() / 2];
        told.reports.retain(|&sequence| sequence > upto);
        cache.acknowledged(upto)?;
    }
    Ok(())
}

/// Always the old or the new variant, whole; nothing lost that was told to be durable.
fn check(cache: &Cache, before: Option<VariantId>, wanted: &Wanted, told: &Acknowledged, catalog: &Catalog) {
    let held = cache.held().unwrap();
    let active = held.active.as_ref().map(|active| active.variant);
    assert!(active == before || active == Some(wanted.variant), "neither the old nor the new");
    assert!(active == told.active || active == Some(wanted.variant), "what was in force is not");
    assert!(held.accepted >= told.accepted, "an accepted generation was forgotten");
    for &variant in &held.variants {
        let graph = stored(cache, variant).expect("what is held is whole");
        assert_eq!(canonical::variant_id(&graph), variant);
        assert!(catalog.graphs.contains_key(&variant));
    }
    assert!(active.is_none_or(|active| held.variants.contains(&active)));
    if let Some(update) = wanted.update.filter(|_| !held.variants.contains(&wanted.variant)) {
        let partial = cache.partial_bytes(update.id).unwrap();
        assert!(partial >= told.partial, "received bytes were lost: {partial} of {}", told.partial);
    }
    let waiting: Vec<u64> = cache.outbox().unwrap().iter().map(|report| report.sequence).collect();
    assert!(told.reports.iter().all(|sequence| waiting.contains(sequence)), "a report was lost");
}

#[test]
fn ten_thousand_power_cuts_leave_the_old_or_the_new_variant_and_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (catalog, mut dice, disk) = (Catalog::new(), Dice(0x5eca_7e04), MemoryDisk::default());
    let variants: Vec<VariantId> = catalog.graphs.keys().copied().collect();
    let mut told = Acknowledged::default();
    let (mut cuts, mut generation, mut installed, mut lost) = (0, 0, 0, 0);
    while cuts < CUTS {
        generation += 1;
        let before = told.active;
        let others: Vec<_> = variants.iter().filter(|&&variant| Some(variant) != before).collect();
        let base = before.filter(|_| dice.below(5) > 0);
        let assignment = catalog.assignment(*others[dice.below(others.len())], generation, base);
        told.partial = 0;
        let mut tries = 0;
        loop {
            let cache = disk.cache();
            tries += 1;
            // In the end the power stays: whatever state the cuts left, it must not be stuck.
            if tries <= 12 {
                disk.cut_after(dice.below(40));
            }
            let done = bring_about(&cache, folder.path(), &assignment, &mut told, &mut dice);
            if let Err(error) = &done {
                assert!(disk.is_cut(), "it failed under power: {error:#}");
                cuts += 1;
                lost += usize::from(disk.unflushed() > 0);
                let kept = dice.below(disk.unflushed() + 1);
                disk.restart(kept);
            } else {
                disk.restart(usize::MAX);
            }
            let cache = disk.cache();
            cache.drop_unheld().unwrap();
            check(&cache, before, &assignment.0, &told, &catalog);
            told.active = cache.held().unwrap().active.map(|active| active.variant);
            if done.is_ok() {
                installed += 1;
                assert_eq!(told.active, Some(assignment.0.variant));
                break;
            }
        }
    }
    println!("{cuts} cuts, {lost} of them with writes to lose; {installed} updates installed");
    assert!(lost > CUTS / 4 && installed > CUTS / 20, "{lost} lost, {installed} installed");
}

#[test]
fn unsound_updates_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = Catalog::new();
    let variants: Vec<VariantId> = catalog.graphs.keys().copied().collect();
    let cache = MemoryDisk::default().cache();
    let (mut told, mut dice) = (Acknowledged::default(), Dice(1));
    let first = catalog.assignment(variants[0], 1, None);
    bring_about(&cache, folder.path(), &first, &mut told, &mut dice).unwrap();
    let (wanted, bytes) = catalog.assignment(variants[1], 2, Some(variants[0]));
    let update = wanted.update.unwrap();
    let stale = Wanted { generation: Generation(3), ..wanted.clone() };
    let other = Wanted { variant: variants[2], ..wanted.clone() };
    let missing = UpdateRef { base: Some(variants[3]), ..update };
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 4;
    for (bytes, update, wanted) in [
        (&flipped, update, &wanted),
        (&bytes, update, &stale),
        (&bytes, update, &other),
        (&bytes, missing, &wanted),
        (&bytes[..bytes.len() - 1].to_vec(), update, &wanted),
    ] {
        cache.append_partial(update.id, 0, bytes).unwrap();
        assert!(store(&cache, folder.path(), update, wanted).is_err());
        assert_eq!(cache.partial_bytes(update.id).unwrap(), 0, "the bytes are used up");
        let held = cache.held().unwrap();
        assert_eq!(held.variants.into_iter().collect::<Vec<_>>(), [variants[0]]);
        assert!(stored(&cache, variants[0]).is_ok());
    }
}
