//! Any bytes as each message that a peer sends, and through its conversion: never a panic.
#![no_main]

use prost::Message;
use secateur_common::{Budget, FleetSpec, Report};
use secateur_proto::v1::{self, agent_message};
use secateur_proto::{labels_from_wire, variant_id};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = v1::AgentMessage::decode(bytes) {
        match message.kind {
            Some(agent_message::Kind::Hello(hello)) => {
                let _ = labels_from_wire(&hello.labels);
                let _ = hello.variants.iter().map(|bytes| variant_id(bytes)).count();
            }
            Some(agent_message::Kind::Report(report)) => drop(Report::try_from(&report)),
            _ => {}
        }
    }
    let _ = v1::CoordinatorMessage::decode(bytes);
    let _ = v1::DownloadRequest::decode(bytes);
    let _ = v1::FleetSpec::decode(bytes).map(|fleet| FleetSpec::try_from(&fleet));
    let _ = v1::Budget::decode(bytes).map(|budget| Budget::try_from(&budget));
});
