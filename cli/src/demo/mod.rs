//! `secateur demo`: the whole loop on this machine, with real processes on real sockets.
//!
//! `bundle` holds model and data, `processes` and `fleet` run the programs, `story` tells what happens, `claims` checks
//! it, `document` shows it.

mod bundle;
mod claims;
mod document;
mod fleet;
pub(crate) mod processes;
mod story;

use std::collections::BTreeMap;

use secateur_common::Accuracy;

use crate::client::{Client, Model};
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::progress::Progress;
use document::Document;
use fleet::Fleet;
use story::Story;

/// `secateur demo`
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct DemoArgs {
    /// How many devices; the first six have different budgets, the last of these an impossible one
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(6..=64))]
    devices: u16,
    /// End after the story: with 0, or with 1 where a claim did not hold
    #[arg(long)]
    once: bool,
}

/// Runs the demo until its end, or until it is told to stop.
///
/// # Errors
/// Where a step fails, or a claim did not hold.
pub(crate) async fn main(args: DemoArgs, output: Output) -> Outcome {
    let mut progress = Progress::new();
    let mut fleet = Fleet::start(usize::from(args.devices)).await?;
    let result = tokio::select! {
        result = tell(&mut fleet, args.once, output, &mut progress) => result,
        () = crate::signal::stop() => Ok(()),
    };
    progress.done();
    if result.is_err() {
        fleet.keep_folder(&progress);
    }
    result
}

async fn tell(fleet: &mut Fleet, once: bool, output: Output, progress: &mut Progress) -> Outcome {
    let (story, model) = story::tell(fleet, progress).await?;
    let mut client = fleet.client().await?;
    let document = document(&mut client, &story, &model).await?;
    progress.done();
    let devices = client.devices().await?;
    let claims = claims::check(&story, &devices);
    let told = claims.iter().map(|claim| format!("{} {}", if claim.holds { "✓" } else { "✗" }, claim.text));
    output.print(&document, || format!("{}\n\n{}", document.table(), told.collect::<Vec<_>>().join("\n")))?;
    let failed: Vec<_> = claims.iter().filter(|claim| !claim.holds).collect();
    if !failed.is_empty() {
        let text: Vec<_> = failed.iter().map(|claim| format!("{} ({})", claim.text, claim.found)).collect();
        return Err(Failure::work(
            format!("{} of {} claims did not hold: {}", failed.len(), claims.len(), text.join("; ")),
            "see the logs of the processes; a machine that is busy with other work can break the latency claims",
        ));
    }
    if once { Ok(()) } else { watch(fleet, client, &story, &model, document, output, progress).await }
}

/// Shows the table again whenever it changes, for ever.
async fn watch(
    fleet: &mut Fleet,
    mut client: Client,
    story: &Story,
    model: &Model,
    mut shown: Document,
    output: Output,
    progress: &Progress,
) -> Outcome {
    progress.say(&format!(
        "the fleet keeps running; operators can ask {}; ctrl-C ends it",
        fleet.operator_address()
    ));
    loop {
        tokio::time::sleep(fleet::POLL * 10).await;
        fleet.check_alive()?;
        let now = document(&mut client, story, model).await?;
        if !now.shows_the_same(&shown) {
            output.say(&format!("\n{}", now.table()))?;
            shown = now;
        }
    }
}

async fn document(client: &mut Client, story: &Story, model: &Model) -> Outcome<Document> {
    let (devices, status) = (client.devices().await?, client.status().await?);
    let dense: &BTreeMap<String, Accuracy> = &story.dense;
    Ok(Document::new(model, &devices, dense, &status, story.recovered(&devices)))
}
