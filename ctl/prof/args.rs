//! The command line of `etherctl prof` and `etherctl stats`.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use etherws::control::api::prof::{Clock, Level, MAX_CPU_SECONDS};
use etherws::prof::formats::Format;
use etherws::prof::view::{Column, Selection, Split, Unit};

const SHOW_EXAMPLES: &str = "Examples:
  etherctl prof show                       what a frame costs, dearest stage first
  etherctl prof show --interval 10 5       the five dearest of the next ten seconds
  etherctl prof show --by stage,port tx    the stages of sending, by port
  etherctl prof show --sort deep --unit us
  etherctl prof show --style pstats";

const RECORD_EXAMPLES: &str = "Examples:
  etherctl prof record -d 10 -o prof.pb.gz   for go tool pprof or flameshow
  etherctl prof record -d 10 -f svg -o prof.svg
  etherctl prof record -d 10 -f json -o before.json
  etherctl prof record -d 10 --cpu -f folded -o - | inferno-flamegraph > cpu.svg";

#[derive(Subcommand, Debug)]
pub enum Prof {
    /// Measure until `stop`, viewers or not.
    #[command(infer_long_args = true)]
    Start {
        /// How closely: count, stage or trace.
        #[arg(long, default_value = "stage", value_parser = level())]
        level: Level,
        #[command(flatten)]
        how: How,
    },
    /// Go back to counting; what is being looked at goes on being measured.
    Stop,
    /// Print level, sampling and who is looking.
    Status,
    /// Count from now on; other viewers keep their own beginning.
    Reset,
    /// Print what each stage costs. Unless `start` was said, the switch is measured for two seconds.
    #[command(infer_long_args = true, after_help = SHOW_EXAMPLES)]
    Show(Show),
    /// Print below what each stage happens.
    #[command(infer_long_args = true)]
    Callers(Calls),
    /// Print what happens below each stage.
    #[command(infer_long_args = true)]
    Callees(Calls),
    /// Print how a stage's times are spread; without STAGE, quantiles of all.
    #[command(infer_long_args = true)]
    Hist {
        /// Its name, or a part of it.
        stage: Option<String>,
        #[command(flatten)]
        look: Look,
    },
    /// Print the slowest frames that level trace has kept.
    #[command(infer_long_args = true)]
    Slow {
        /// Only those that took so many microseconds.
        #[arg(long, value_name = "N", default_value_t = 0.0, value_parser = microseconds)]
        us: f64,
        /// At most so many.
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: u32,
        /// Trace for so many seconds first.
        #[arg(long, value_name = "S", value_parser = seconds)]
        interval: Option<Duration>,
    },
    /// Measure for a while and write a file for other tools.
    #[command(infer_long_args = true, after_help = RECORD_EXAMPLES)]
    Record(Record),
    /// Compare two files of `record -f json` or two of pstats: own time per frame and per byte.
    Diff {
        /// Before.
        a: PathBuf,
        /// After.
        b: PathBuf,
    },
}

/// How it is measured.
#[derive(Args, Debug, Default, Clone, Copy)]
pub struct How {
    /// Measure one batch in so many: 1/64, or 64.
    #[arg(long, value_name = "1/N", value_parser = sample)]
    pub sample: Option<u32>,
    /// What passes (wall), or what the thread is given (cpu; a system call for each stage).
    #[arg(long, value_parser = clock())]
    pub clock: Option<Clock>,
}

#[derive(Args, Debug, Default, Clone, Copy)]
pub struct Look {
    /// Look for so many seconds from now on.
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub interval: Option<Duration>,
    #[command(flatten)]
    pub how: How,
}

#[derive(Args, Debug)]
pub struct Show {
    /// Rows to show: so many, a part (0.1), or those that a pattern is found in; one after the other
    /// [default: 20].
    #[arg(value_name = "N|0.1|REGEX")]
    pub selection: Vec<Selection>,
    /// Columns to sort by; names of pstats and Yappi, and unique beginnings, do.
    #[arg(long, value_name = "KEY,..", default_value = "own", value_parser = sort_keys)]
    pub sort: SortKeys,
    /// The other way round.
    #[arg(short, long)]
    pub reverse: bool,
    /// A row for each: stage, port, thread, dir, size [default: stage].
    #[arg(long, value_name = "WHAT,..")]
    pub by: Option<Split>,
    /// ns, us or cycles.
    #[arg(long, default_value = "ns", hide_possible_values = true, value_parser = unit())]
    pub unit: Unit,
    #[arg(long, default_value = "etherws", value_parser = style(), help = "etherws, pstats or runtime (VPP's)",
          hide_possible_values = true)]
    pub style: Style,
    #[command(flatten)]
    pub look: Look,
}

#[derive(Args, Debug)]
pub struct Calls {
    /// Stages to show: so many, a part (0.1), or those that a pattern is found in.
    #[arg(value_name = "N|0.1|REGEX")]
    pub selection: Vec<Selection>,
    /// ns, us or cycles.
    #[arg(long, default_value = "ns", hide_possible_values = true, value_parser = unit())]
    pub unit: Unit,
    #[command(flatten)]
    pub look: Look,
}

#[derive(Args, Debug)]
pub struct Record {
    /// Seconds.
    #[arg(short, long, value_name = "S", default_value = "10", value_parser = seconds)]
    pub duration: Duration,
    /// pprof, folded, speedscope, svg, pstats or json [default: by the file's name, else pprof].
    #[arg(short, long, hide_possible_values = true, value_parser = format())]
    pub format: Option<Format>,
    /// The file; `-` is standard output [default: etherws-prof and what the format is called].
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Sample function stacks of the whole daemon by CPU time, instead of stages of frames.
    #[arg(long, conflicts_with_all = ["sample", "clock"])]
    pub cpu: bool,
    /// Samples a second of CPU time, with --cpu.
    #[arg(long, value_name = "N", requires = "cpu", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub hz: Option<u32>,
    #[command(flatten)]
    pub how: How,
}

/// What `show` looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    Etherws,
    Pstats,
    Runtime,
}

/// One or more columns.
#[derive(Clone, Debug)]
pub struct SortKeys(pub Vec<Column>);

fn sort_keys(text: &str) -> Result<SortKeys, String> {
    Column::list(text).map(SortKeys)
}

/// One of these words.
fn one_of<T: Copy + Send + Sync + 'static>(
    words: &'static [(&'static str, T)],
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(words.iter().map(|(word, _)| *word)).map(move |text| {
        // The parser lets only these words through.
        words.iter().find(|(word, _)| *word == text).map_or(words[0].1, |(_, value)| *value)
    })
}

fn level() -> impl TypedValueParser<Value = Level> {
    one_of(&[("count", Level::Count), ("stage", Level::Stage), ("trace", Level::Trace), ("off", Level::Off)])
}

fn clock() -> impl TypedValueParser<Value = Clock> {
    one_of(&[("wall", Clock::Wall), ("cpu", Clock::Cpu)])
}

fn unit() -> impl TypedValueParser<Value = Unit> {
    one_of(&[("ns", Unit::Ns), ("us", Unit::Us), ("cycles", Unit::Cycles)])
}

fn style() -> impl TypedValueParser<Value = Style> {
    one_of(&[("etherws", Style::Etherws), ("pstats", Style::Pstats), ("runtime", Style::Runtime)])
}

fn format() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(Format::ALL.map(Format::name)).map(|text| {
        // As above.
        Format::ALL.into_iter().find(|format| format.name() == text).unwrap_or(Format::Pprof)
    })
}

/// `1/64` or `64`.
fn sample(text: &str) -> Result<u32, String> {
    let number = text.strip_prefix("1/").unwrap_or(text).parse::<u32>().ok();
    number.filter(|n| (1..=1_000_000).contains(n)).ok_or_else(|| "expected 1/1 to 1/1000000".into())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text).parse::<f64>().ok();
    let number = number.filter(|seconds| (0.05..=86_400.0).contains(seconds));
    number.map(Duration::from_secs_f64).ok_or_else(|| "expected 0.05 to 86400 seconds".into())
}

fn microseconds(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|us| us.is_finite() && *us >= 0.0);
    number.ok_or_else(|| "expected microseconds, 0 or more".into())
}

/// Whole seconds of a CPU sampling.
pub fn cpu_seconds(duration: Duration) -> Result<u32, String> {
    match duration.as_secs_f64().round() {
        seconds if seconds >= 1.0 && seconds <= f64::from(MAX_CPU_SECONDS) => Ok(seconds as u32),
        _ => Err(format!("--cpu takes 1 to {MAX_CPU_SECONDS} seconds")),
    }
}
