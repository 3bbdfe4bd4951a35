//! Runs seeds of the simulation from the command line.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::num::NonZero;
use std::ops::Range;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, ValueEnum};
use raft::Bug;
use serde::Serialize;
use sim::batch::{Failure, Listener, Progress, Report, run_batch_telling};
use sim::cluster;
use sim::group::settings::{Fault, Plan, Scale, Settings};
use sim::run::{Outcome, replay_command, revision, run};
use sim::shrink::{Shrunk, Size};
use sim::watch::Watch;

/// Seeded simulation of a cluster of stores, or of one Raft group.
///
/// A seed fixes everything. What fails is made smaller and printed with the command that shows it again.
#[derive(Debug, Parser)]
#[command(name = "sim")]
struct Arguments {
    /// Run this seed alone
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run these seeds, `from..to`
    #[arg(long, value_parser = parse_range, default_value = "0..1000")]
    seeds: Range<u64>,
    /// Simulate one Raft group instead of a cluster of stores
    #[arg(long)]
    group: bool,
    /// Events of a seed until faults stop
    #[arg(long, default_value_t = 10_000)]
    events: u64,
    /// Print everything that happens; with --seed
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Print only the hash of everything that happens; with --seed
    #[arg(long, requires = "seed", conflicts_with_all = ["trace", "output"])]
    digest: bool,
    /// Faults that exist in every world: names, or `disk`, `network`, `clock` or `process` for all of a kind
    #[arg(long, value_parser = parse_faults, value_delimiter = ',')]
    faults: Vec<Faults>,
    /// Faults that stay away, named in the same way
    #[arg(long, value_parser = parse_faults, value_delimiter = ',')]
    without: Vec<Faults>,
    /// Stores at the most, or peers with which a group begins
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    stores: Option<u64>,
    /// Plant this bug, by its name in `raft::Bug`
    #[arg(long, value_parser = parse_bug)]
    bug: Option<Bug>,
    /// Plant this bug of the stores, by its name in `store::Bug`
    #[arg(long, value_parser = parse_store_bug, conflicts_with = "group")]
    store_bug: Option<store::Bug>,
    /// Leave it to the stores to compare what they applied
    #[arg(long, conflicts_with = "group")]
    stores_compare: bool,
    /// Threads for a range of seeds [default: one per processor]
    #[arg(long)]
    threads: Option<usize>,
    /// Stop after this many seconds
    #[arg(long, conflicts_with = "seed")]
    seconds: Option<u64>,
    /// Seconds for making a failure smaller; 0 leaves it as it is, as does --trace
    #[arg(long, default_value_t = 60)]
    shrink_seconds: u64,
    /// The form of the output
    #[arg(long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One JSON document for programs
    Json,
}

/// What one name on the command line stands for.
#[derive(Clone, Debug)]
enum Faults {
    One(Fault),
    Kind(&'static [Fault]),
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text
        .split_once("..")
        .ok_or("expected from..to, as in 0..1000")?;
    let number = |text: &str| {
        text.replace('_', "")
            .parse::<u64>()
            .map_err(|error| format!("{text:?}: {error}"))
    };
    let range = number(from)?..number(to)?;
    if range.is_empty() {
        return Err("no seed is in it: the end is not part of a range".to_owned());
    }
    Ok(range)
}

fn parse_faults(name: &str) -> Result<Faults, String> {
    if let Some(kind) = Fault::kind(name) {
        return Ok(Faults::Kind(kind));
    }
    Fault::from_name(name).map(Faults::One).ok_or_else(|| {
        let kinds = Fault::KINDS.iter().map(|(kind, _)| (*kind).to_owned());
        let names: Vec<String> = kinds
            .chain(Fault::ALL.into_iter().map(Fault::name))
            .collect();
        format!("no such fault; there are {}", names.join(", "))
    })
}

fn parse_bug(name: &str) -> Result<Bug, String> {
    Bug::ALL
        .into_iter()
        .find(|bug| format!("{bug:?}") == name)
        .ok_or_else(|| format!("no such bug; there are {:?}", Bug::ALL))
}

fn parse_store_bug(name: &str) -> Result<store::Bug, String> {
    store::Bug::ALL
        .into_iter()
        .find(|bug| format!("{bug:?}") == name)
        .ok_or_else(|| format!("no such bug; there are {:?}", store::Bug::ALL))
}

/// The faults that were named, as far as worlds of this scale have them.
fn resolve(named: &[Faults], scale: Scale) -> Result<Vec<Fault>, String> {
    let has = |fault: Fault| match scale {
        Scale::Group => fault.is_of_groups(),
        Scale::Cluster => cluster::settings::FAULTS.contains(&fault),
    };
    let mut faults = Vec::new();
    for name in named {
        match name {
            Faults::One(fault) if !has(*fault) => {
                let (worlds, switch) = match scale {
                    Scale::Group => ("a group has", "without"),
                    Scale::Cluster => ("a cluster has", "with"),
                };
                let name = fault.name();
                return Err(format!(
                    "{worlds} no fault {name}: it exists {switch} --group"
                ));
            }
            Faults::One(fault) => faults.push(*fault),
            Faults::Kind(kind) => faults.extend(kind.iter().copied().filter(|fault| has(*fault))),
        }
    }
    Ok(faults)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let scale = if arguments.group {
        Scale::Group
    } else {
        Scale::Cluster
    };
    let named = |named: &[Faults]| {
        resolve(named, scale).unwrap_or_else(|text| {
            Arguments::command()
                .error(ErrorKind::ValueValidation, text)
                .exit()
        })
    };
    let (faults, without) = (named(&arguments.faults), named(&arguments.without));
    let plan = |seed: u64| Plan {
        scale,
        seed,
        events: arguments.events,
        without: without.clone(),
        faults: faults.clone(),
        stores: arguments.stores,
        bug: arguments.bug,
        store_bug: arguments.store_bug,
        stores_compare: arguments.stores_compare,
        trace: arguments.trace,
    };
    let told = match arguments.seed {
        Some(seed) if arguments.digest => return print_digest(&plan(seed)),
        Some(seed) => run_one(&plan(seed), &arguments),
        None => run_many(&arguments, plan),
    };
    match arguments.output {
        Format::Json => {
            let json = serde_json::to_string_pretty(&told).expect("the report has a form in JSON");
            print(&format!("{json}\n"));
        }
        Format::Text => print(&told.text),
    }
    if told.failure.is_some() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// Whoever reads may have read enough (`| head`).
fn print(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

fn print_digest(plan: &Plan) -> ExitCode {
    let outcome = run(plan);
    print(&format!(
        "{:016x} {} events\n",
        outcome.digest, outcome.events
    ));
    match outcome.violation {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            print(&format!("breaks {violation}\n"));
            ExitCode::FAILURE
        }
    }
}

/// What a run came to.
#[derive(Serialize)]
struct Told {
    seeds: u64,
    events: u64,
    seconds: f64,
    events_per_second: u64,
    happened: BTreeMap<String, u64>,
    /// Hash of everything that happened, of one seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    trace: Vec<String>,
    failure: Option<ToldFailure>,
    /// The same for people.
    #[serde(skip)]
    text: String,
}

#[derive(Serialize)]
struct ToldFailure {
    seed: u64,
    breaks: String,
    revision: String,
    replay: String,
    shrunk: Option<ToldShrunk>,
}

#[derive(Serialize)]
struct ToldShrunk {
    breaks: String,
    replay: String,
    events: u64,
    faults: Vec<String>,
    stores: u64,
    tries: u64,
    complete: bool,
}

fn run_many(arguments: &Arguments, plan: impl Fn(u64) -> Plan + Sync) -> Told {
    let (watch, screen) = (Watch::start(), Screen::new());
    let all = arguments.seeds.end - arguments.seeds.start;
    let tell = |progress: Progress| screen.show(&progress_line(&progress, all));
    let threads = arguments.threads.unwrap_or_else(|| {
        std::thread::available_parallelism()
            .map(NonZero::get)
            .unwrap_or(1)
    });
    let budget = arguments.seconds.map(Duration::from_secs);
    let report = run_batch_telling(
        arguments.seeds.clone(),
        threads,
        budget,
        plan,
        Some(Listener {
            period: screen.period(),
            tell: &tell,
        }),
    );
    let Report {
        seeds,
        events,
        happened,
        failure,
    } = report;
    let (seconds, rate) = per_second(events, watch.elapsed());
    let mut text = format!("{seeds} seeds, {events} events in {seconds:.1} s, {rate} events/s\n");
    for (name, count) in &happened {
        text += &format!("  {name:<26} {count}\n");
    }
    let failure = failure.map(|failure| tell_failure(&failure, arguments, &screen, &mut text));
    screen.clear();
    Told {
        seeds,
        events,
        seconds,
        events_per_second: rate,
        happened,
        digest: None,
        trace: Vec::new(),
        failure,
        text,
    }
}

fn run_one(plan: &Plan, arguments: &Arguments) -> Told {
    let (watch, screen) = (Watch::start(), Screen::new());
    let Outcome {
        violation,
        events,
        digest,
        happened,
        trace,
    } = run(plan);
    let (seconds, rate) = per_second(events, watch.elapsed());
    let mut text = String::new();
    if plan.trace {
        text += &match plan.scale {
            Scale::Group => format!("{:#?}\n", Settings::draw(plan)),
            Scale::Cluster => format!("{:#?}\n", cluster::settings::Settings::draw(plan)),
        };
    }
    for line in &trace {
        text += line;
        text += "\n";
    }
    text += &format!("{events} events, digest {digest:016x}\n");
    let failure = violation.map(|violation| {
        let plan = plan.clone();
        let failure = Failure { plan, violation };
        tell_failure(&failure, arguments, &screen, &mut text)
    });
    screen.clear();
    Told {
        seeds: 1,
        events,
        seconds,
        events_per_second: rate,
        happened,
        digest: Some(format!("{digest:016x}")),
        trace,
        failure,
        text,
    }
}

/// Makes a failure smaller and tells of it.
fn tell_failure(
    failure: &Failure,
    arguments: &Arguments,
    screen: &Screen,
    text: &mut String,
) -> ToldFailure {
    *text += &format!("{}\n", failure.explain());
    let shrinks = arguments.shrink_seconds > 0 && !arguments.trace;
    let shrunk = shrinks.then(|| {
        screen.show(&format!(
            "seed {} breaks {}: making it smaller",
            failure.plan.seed, failure.violation.rule
        ));
        let limit = Duration::from_secs(arguments.shrink_seconds);
        let shrunk = failure.shrink(limit, |tries, smallest| {
            let line = || format!("{tries} tries, down to {}", Size::of(smallest));
            screen.show_now_and_then(line);
        });
        *text += &format!("{}\n", failure.explain_shrunk(shrunk.as_ref()));
        shrunk
    });
    ToldFailure {
        seed: failure.plan.seed,
        breaks: failure.violation.to_string(),
        revision: revision(),
        replay: replay_command(&failure.plan),
        shrunk: shrunk.flatten().map(|shrunk| {
            let Shrunk {
                plan,
                violation,
                tries,
                complete,
            } = shrunk;
            ToldShrunk {
                breaks: violation.to_string(),
                replay: replay_command(&plan),
                events: plan.events,
                faults: plan.world_faults().iter().map(Fault::name).collect(),
                stores: plan.world_stores(),
                tries,
                complete,
            }
        }),
    }
}

fn per_second(events: u64, elapsed: Duration) -> (f64, u64) {
    let seconds = elapsed.as_secs_f64();
    (seconds, (events as f64 / seconds.max(0.001)) as u64)
}

fn progress_line(progress: &Progress, all: u64) -> String {
    let Progress {
        seeds,
        events,
        elapsed,
    } = progress;
    let (seconds, rate) = per_second(*events, *elapsed);
    format!("{seeds} of {all} seeds, {events} events in {seconds:.0} s, {rate} events/s")
}

/// Where people see how far it is: one line of a terminal, written again and again, or else a line now and then.
struct Screen {
    is_terminal: bool,
    shown: Cell<Watch>,
}

impl Screen {
    fn new() -> Screen {
        Screen {
            is_terminal: std::io::stderr().is_terminal(),
            shown: Cell::new(Watch::start()),
        }
    }

    fn period(&self) -> Duration {
        Duration::from_secs(if self.is_terminal { 1 } else { 10 })
    }

    /// Shows a line.
    fn show(&self, line: &str) {
        // Nobody may read it, and that is no failure.
        let _ = if self.is_terminal {
            write!(std::io::stderr().lock(), "\r{line}\x1b[K")
        } else {
            writeln!(std::io::stderr().lock(), "{line}")
        };
    }

    /// Shows a line if none was shown for a while.
    fn show_now_and_then(&self, line: impl FnOnce() -> String) {
        if self.shown.get().elapsed() >= self.period() {
            self.shown.set(Watch::start());
            self.show(&line());
        }
    }

    /// Makes the line empty, for what is printed next.
    fn clear(&self) {
        if self.is_terminal {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}
