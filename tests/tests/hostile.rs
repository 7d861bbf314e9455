//! Peers that say what they must not: each is refused with a reason, and nobody else notices.

use std::time::Duration;

use bytes::{Buf, BufMut};
use secateur_common::{FleetSpec, GroupSpec, caps};
use secateur_proto::v1::{self, agent_message, coordinator_message, fleet_client::FleetClient};
use secateur_proto::{DEVICE_KEY_METADATA, JOIN_TOKEN_METADATA, Message, PROTOCOL};
use secateur_tests::fleet::{Fleet, TOKEN, failure, lenet5};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

const LIMIT: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(20);

/// Messages as bytes.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn encode(&mut self, item: Vec<u8>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining()).to_vec()))
    }
}

fn signed<T>(message: T, key: &[u8], token: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert_bin(DEVICE_KEY_METADATA, MetadataValue::from_bytes(key));
    request.metadata_mut().insert(JOIN_TOKEN_METADATA, token.parse().expect("a token"));
    request
}

fn hello() -> v1::Hello {
    v1::Hello { protocol: PROTOCOL, version: "0".into(), name: "mallory".into(), ..v1::Hello::default() }
}

fn said(kind: agent_message::Kind) -> Vec<u8> {
    v1::AgentMessage { kind: Some(kind) }.encode_to_vec()
}

/// Says `messages` over a session of its own, keeps the stream open, and waits for how the coordinator ends it.
async fn ended(channel: &Channel, key: &[u8], token: &str, messages: Vec<Vec<u8>>) -> Code {
    let end = async {
        let open = tokio_stream::StreamExt::chain(tokio_stream::iter(messages), tokio_stream::pending());
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.map_err(|error| Status::internal(error.to_string()))?;
        let path = "/secateur.v1.Fleet/Session".parse().expect("a path");
        let mut answers: Streaming<Vec<u8>> =
            grpc.streaming(signed(open, key, token), path, Raw).await?.into_inner();
        while answers.message().await?.is_some() {}
        Ok::<(), Status>(())
    };
    let end = tokio::time::timeout(PATIENCE, end).await.expect("the coordinator ends the session");
    end.err().map_or(Code::Ok, |status| status.code())
}

fn bad_sessions() -> Vec<(&'static str, Vec<agent_message::Kind>)> {
    use agent_message::Kind;
    let report = v1::Report { model: "lenet5".into(), variant: vec![7; 32], ..v1::Report::default() };
    let outcome = v1::Outcome { variant: vec![7; 32], result: 1, ..v1::Outcome::default() };
    vec![
        ("no hello", vec![Kind::Heartbeat(v1::Heartbeat {})]),
        ("another protocol", vec![Kind::Hello(v1::Hello { protocol: 99, ..hello() })]),
        ("no name", vec![Kind::Hello(v1::Hello { name: String::new(), ..hello() })]),
        ("a long name", vec![Kind::Hello(v1::Hello { name: "n".repeat(5000), ..hello() })]),
        ("a short variant", vec![Kind::Hello(v1::Hello { variants: vec![vec![1; 31]], ..hello() })]),
        ("many variants", vec![Kind::Hello(v1::Hello { variants: vec![vec![1; 32]; 500], ..hello() })]),
        ("two hellos", vec![Kind::Hello(hello()), Kind::Hello(hello())]),
        (
            "more correct than there are",
            vec![Kind::Hello(hello()), Kind::Report(v1::Report { samples: 1, correct: 2, ..report.clone() })],
        ),
        (
            "quantiles that fall",
            vec![Kind::Hello(hello()), Kind::Report(v1::Report { latency_p50_us: 9, ..report })],
        ),
        (
            "an outcome of no variant",
            vec![Kind::Hello(hello()), Kind::Outcome(v1::Outcome { variant: vec![], ..outcome })],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bad_peers_are_refused_and_nobody_else_notices() -> anyhow::Result<()> {
    let mut fleet = Fleet::start(&[0.5]).await?;
    let mut client = fleet.client().await?;
    client.add_model(lenet5()?, |_, _, _| {}).await.map_err(failure)?;
    let group = GroupSpec {
        name: "all".parse()?,
        selector: secateur_common::Selector("class=small".parse()?),
        model: "lenet5".parse()?,
        budget: Default::default(),
        rollout: None,
    };
    client.apply(&FleetSpec { groups: vec![group], rollout: None }, false).await.map_err(failure)?;
    fleet.start_agent("one", "class=small", "shards/1.npz")?;
    let settled = |devices: &[secateur_cli::client::Device]| {
        devices.iter().any(|device| device.name == "one" && device.settled())
    };
    let before = fleet.wait_for("the good one settles", LIMIT, settled).await?;

    let channel = Channel::from_shared(format!("http://{}", fleet.address()))?.connect().await?;
    let key = [5; 32];
    for (token, key) in [("another", &key[..]), ("", &key[..]), (TOKEN, &key[..31]), (TOKEN, &[5; 65][..])] {
        let first = vec![said(agent_message::Kind::Hello(hello()))];
        assert_eq!(ended(&channel, key, token, first).await, Code::Unauthenticated);
    }
    for (what, messages) in bad_sessions() {
        let code = ended(&channel, &key, TOKEN, messages.into_iter().map(said).collect()).await;
        assert!(matches!(code, Code::InvalidArgument | Code::FailedPrecondition), "{what}: {code:?}");
    }
    // Bytes that are no message, first or after a good hello.
    let mut state = 0x5eca_7e04u64;
    let mut random = move |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as u8
    };
    for round in 0..100 {
        // A field of the first kind whose length is beyond the end: never a message.
        let junk = [vec![0x0a, 0xff, 0x7f], (0..round).map(&mut random).collect()].concat();
        let mut messages = vec![junk];
        if round % 2 == 0 {
            messages.insert(0, said(agent_message::Kind::Hello(hello())));
        }
        let code = ended(&channel, &key, TOKEN, messages).await;
        assert_ne!(code, Code::Ok, "round {round}");
    }
    let huge = v1::Hello { version: "v".repeat(caps::MESSAGE_BYTES + 1), ..hello() };
    let code = ended(&channel, &key, TOKEN, vec![said(agent_message::Kind::Hello(huge))]).await;
    assert!(matches!(code, Code::OutOfRange | Code::ResourceExhausted), "{code:?}");

    lies(&channel, &key).await?;
    downloads(&channel, &key).await?;

    let after = fleet.wait_for("the good one is as it was", LIMIT, settled).await?;
    let good = |devices: &[secateur_cli::client::Device]| {
        let device = devices.iter().find(|device| device.name == "one").expect("the good device");
        (device.id.clone(), device.variant, device.generation, device.active)
    };
    assert_eq!(good(&after), good(&before));
    fleet.start_agent("two", "class=small", "shards/2.npz")?;
    let both = |devices: &[secateur_cli::client::Device]| {
        ["one", "two"].iter().all(|name| devices.iter().any(|d| d.name == *name && d.settled()))
    };
    fleet.wait_for("another good one settles", LIMIT, both).await?;
    Ok(())
}

/// A device that says it accepted the last generation there is, and runs what nobody knows: it harms itself alone.
async fn lies(channel: &Channel, key: &[u8]) -> anyhow::Result<()> {
    let active = v1::Holding { model: "lenet5".into(), variant: vec![9; 32], generation: u64::MAX };
    let labels = [("class".to_owned(), "small".to_owned())].into();
    let hello = v1::Hello { generation: u64::MAX, active: Some(active), labels, ..hello() };
    let outcome =
        v1::Outcome { generation: u64::MAX, variant: vec![8; 32], result: 1, ..v1::Outcome::default() };
    let heartbeat = agent_message::Kind::Heartbeat(v1::Heartbeat {});
    let messages = [agent_message::Kind::Hello(hello), agent_message::Kind::Outcome(outcome), heartbeat];
    let messages = messages.map(|kind| v1::AgentMessage { kind: Some(kind) });
    let open = tokio_stream::StreamExt::chain(tokio_stream::iter(messages), tokio_stream::pending());
    let mut client = FleetClient::new(channel.clone());
    let mut answers = client.session(signed(open, key, TOKEN)).await?.into_inner();
    let welcome = answers.message().await?.and_then(|message| message.kind);
    assert!(matches!(welcome, Some(coordinator_message::Kind::Welcome(_))));
    // It is heard out: its heartbeat is answered after what it said.
    while let Some(message) = tokio::time::timeout(PATIENCE, answers.message()).await?? {
        if matches!(message.kind, Some(coordinator_message::Kind::Heartbeat(_))) {
            break;
        }
    }
    Ok(())
}

/// Updates that are not this device's, and requests for what there is not.
async fn downloads(channel: &Channel, key: &[u8]) -> anyhow::Result<()> {
    let mut client = FleetClient::new(channel.clone());
    for (update, code) in
        [(vec![1; 32], Code::NotFound), (vec![1; 31], Code::InvalidArgument), (vec![], Code::InvalidArgument)]
    {
        for offset in [0, u64::MAX] {
            let request = v1::DownloadRequest { update: update.clone(), offset, limit: u64::MAX };
            let refused = client.download(signed(request, key, TOKEN)).await.expect_err("no such update");
            assert_eq!(refused.code(), code);
        }
    }
    Ok(())
}

/// Says a thousand reports without waiting for one acknowledgement; ends when the last is acknowledged.
async fn flood(channel: Channel, variant: Vec<u8>) -> anyhow::Result<()> {
    let report = v1::Report { model: "lenet5".into(), variant, ..v1::Report::default() };
    let reports = (1..=FLOOD).map(move |sequence| v1::Report { sequence, ..report.clone() });
    let kinds =
        std::iter::once(agent_message::Kind::Hello(hello())).chain(reports.map(agent_message::Kind::Report));
    let said = tokio_stream::iter(kinds.map(|kind| v1::AgentMessage { kind: Some(kind) }));
    let open = tokio_stream::StreamExt::chain(said, tokio_stream::pending());
    let mut answers = FleetClient::new(channel).session(signed(open, &[6; 32], TOKEN)).await?.into_inner();
    while let Some(message) = tokio::time::timeout(PATIENCE, answers.message()).await?? {
        if let Some(coordinator_message::Kind::ReportAck(ack)) = message.kind
            && ack.sequence == FLOOD
        {
            return Ok(());
        }
    }
    anyhow::bail!("the session ended before the last report was acknowledged")
}

const FLOOD: u64 = 1000;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_flood_has_one_place_in_each_commit_and_connections_that_say_nothing_hold_nobody_up()
-> anyhow::Result<()> {
    let mut fleet = Fleet::start(&[]).await?;
    let mut client = fleet.client().await?;
    client.add_model(lenet5()?, |_, _, _| {}).await.map_err(failure)?;
    let (name, selector) = ("all".parse()?, secateur_common::Selector("class=small".parse()?));
    let group =
        GroupSpec { name, selector, model: "lenet5".parse()?, budget: Default::default(), rollout: None };
    client.apply(&FleetSpec { groups: vec![group], rollout: None }, false).await.map_err(failure)?;
    let mut mute = Vec::new();
    for _ in 0..100 {
        mute.push(tokio::net::TcpStream::connect(fleet.address()).await?);
    }
    let channel = Channel::from_shared(format!("http://{}", fleet.address()))?.connect().await?;
    let flood = tokio::spawn(flood(channel, vec![7; 32]));
    fleet.start_agent("one", "class=small", "shards/1.npz")?;
    let settled = |devices: &[secateur_cli::client::Device]| {
        devices.iter().any(|device| device.name == "one" && device.settled())
    };
    fleet.wait_for("the good one settles", LIMIT, settled).await?;
    flood.await??;
    Ok(())
}
