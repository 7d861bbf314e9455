//! `secateur`: the operator's commands, the offline tools and the demo. Also runs as coordinator and as agent, so that
//! one program is enough.
//!
//! Architecture invariant: commands read, call a room and print; what they compute lives in the rooms.
#![forbid(unsafe_code)]

mod budget;
pub mod client;
mod demo;
pub mod failure;
mod files;
pub mod link;
mod offline;
mod operator;
pub mod output;
pub mod plot;
mod progress;
mod screen;
mod signal;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use failure::{OrFail, Outcome};
use operator::Coordinator;
use output::Output;

/// Prunes one model to fit every device, and ships only the cuttings.
#[derive(Parser, Debug)]
#[command(name = "secateur", version, propagate_version = true, disable_help_subcommand = true)]
struct Cli {
    /// Print one JSON document on stdout and nothing else there
    #[arg(long, global = true)]
    json: bool,
    /// What to log on stderr: error, warn, info, debug, trace, or a filter such as secateur=debug
    #[arg(long, global = true, default_value = "warn", value_name = "FILTER")]
    log: String,
    /// End when stdin ends: for programs that start this one and must not be survived by it
    #[arg(long, hide = true)]
    exit_with_stdin: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// The whole loop on this machine: a coordinator, six devices, budgets, faults
    Demo(demo::DemoArgs),
    /// A model's layers, costs, channel groups, and what runs it
    Inspect(offline::inspect::InspectArgs),
    /// Prune a model to a budget
    Prune(offline::prune::PruneArgs),
    /// Pruning method against method: accuracy, costs and time at several points
    Compare(offline::compare::CompareArgs),
    /// A model's accuracy on labelled data
    Evaluate(offline::evaluate::EvaluateArgs),
    /// The time of single inferences on this machine
    Bench(offline::bench::BenchArgs),
    /// Make, apply and explain updates
    #[command(subcommand)]
    Update(offline::update::UpdateCommand),
    /// Register, list, show and remove models
    Model {
        #[command(flatten)]
        at: Coordinator,
        #[command(subcommand)]
        command: operator::ModelCommand,
    },
    /// Declare the fleet: groups, selectors, budgets
    Apply(operator::ApplyArgs),
    /// List and show devices; say why one runs what it runs
    Device {
        #[command(flatten)]
        at: Coordinator,
        #[command(subcommand)]
        command: operator::device::DeviceCommand,
    },
    /// Show plans and what they changed
    Plan {
        #[command(flatten)]
        at: Coordinator,
        #[command(subcommand)]
        command: operator::PlanCommand,
    },
    /// Show, pause, resume and abort rollouts
    Rollout {
        #[command(flatten)]
        at: Coordinator,
        #[command(subcommand)]
        command: operator::rollout::RolloutCommand,
    },
    /// The coordinator at a glance
    Status {
        #[command(flatten)]
        at: Coordinator,
    },
    /// The whole fleet at a glance, live on a terminal
    Top(operator::top::TopArgs),
    /// A bad link in user space: a TCP proxy with a rate, a delay, loss, cuts and a stall
    Link(link::LinkArgs),
    /// Run as coordinator; takes the arguments of secateur-coordinator
    #[command(disable_help_flag = true, disable_version_flag = true)]
    Coordinator {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        rest: Vec<OsString>,
    },
    /// Run as agent; takes the arguments of secateur-agent
    #[command(disable_help_flag = true, disable_version_flag = true)]
    Agent {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        rest: Vec<OsString>,
    },
}

/// Runs the program with this process's arguments.
pub fn main() -> ExitCode {
    let cli = match parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    if cli.exit_with_stdin {
        demo::processes::exit_with_stdin();
    }
    match &cli.command {
        Some(Command::Coordinator { rest }) => {
            return secateur_coordinator::cli::main(named("secateur-coordinator", rest));
        }
        Some(Command::Agent { rest }) => return secateur_agent::cli::main(named("secateur-agent", rest)),
        _ => {}
    }
    init_log(&cli.log);
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            progress::note(&failure.to_string());
            failure.exit_code()
        }
    }
}

/// The arguments of another program, its name first.
fn named(program: &str, rest: &[OsString]) -> Vec<OsString> {
    std::iter::once(program.into()).chain(rest.iter().cloned()).collect()
}

/// The arguments; an exit code where they are wrong or only help was asked for.
fn parse() -> Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|error| {
        if !error.use_stderr() {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        let text = error.render().to_string();
        let what = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let missing = text.lines().skip(1).map(str::trim).take_while(|line| !line.is_empty());
        let what = missing.fold(what.to_owned(), |what, line| format!("{what} {line}"));
        let usage =
            text.lines().find_map(|line| line.strip_prefix("Usage: ")).unwrap_or("secateur <COMMAND>");
        let tip = text.lines().find_map(|line| line.trim().strip_prefix("tip: "));
        let advice = tip
            .map_or(format!("usage: {usage}; --help tells more"), |tip| format!("{tip}; --help tells more"));
        progress::note(&failure::Failure::input(what, advice).to_string());
        ExitCode::from(2)
    })
}

fn init_log(filter: &str) {
    let filter = tracing_subscriber::EnvFilter::try_new(filter).unwrap_or_else(|error| {
        progress::note(&format!("warning: bad --log filter {filter}: {error}; using warn"));
        tracing_subscriber::EnvFilter::new("warn")
    });
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}

fn run(cli: Cli) -> Outcome {
    let output = Output { json: cli.json };
    let Some(command) = cli.command else {
        return output.say(&Cli::command().render_help().to_string());
    };
    match command {
        Command::Demo(args) => wait_for(demo::main(args, output)),
        Command::Inspect(args) => offline::inspect::main(&args, output),
        Command::Prune(args) => offline::prune::main(&args, output),
        Command::Compare(args) => offline::compare::main(&args, output),
        Command::Evaluate(args) => offline::evaluate::main(&args, output),
        Command::Bench(args) => offline::bench::main(&args, output),
        Command::Update(command) => offline::update::main(&command, output),
        Command::Model { at, command } => wait_for(operator::model(command, &at, output)),
        Command::Apply(args) => wait_for(operator::apply(args, output)),
        Command::Device { at, command } => wait_for(operator::device::main(command, &at, output)),
        Command::Plan { at, command } => wait_for(operator::plan(command, &at, output)),
        Command::Rollout { at, command } => wait_for(operator::rollout::main(command, &at, output)),
        Command::Status { at } => wait_for(operator::status(&at, output)),
        Command::Top(args) => wait_for(operator::top::main(args, output)),
        Command::Link(args) => wait_for(link::main(args, |address| {
            output.print(&serde_json::json!({ "listening": address }), || format!("listening on {address}"))
        })),
        // These have their own command lines and never come here: see `main`.
        Command::Coordinator { .. } | Command::Agent { .. } => Ok(()),
    }
}

/// Runs an asynchronous command to its end.
fn wait_for(work: impl Future<Output = Outcome>) -> Outcome {
    let advice = "the system refuses threads or sockets: raise its limits";
    tokio::runtime::Runtime::new().or_work("cannot start", advice)?.block_on(work)
}
