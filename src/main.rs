//! `etherws`: the switch, and by `etherws ctl` its control program.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use etherws::daemon::cli::{Cli, Command};
use etherws::daemon::run::{self, complain};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    match cli.command {
        Command::Sw(sw) => run::sw(&sw),
        Command::Check { file } => run::check(&file),
        Command::Ctl { arguments } => ctl(&arguments),
        Command::Man { directory } => done(man(&directory)),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "etherws", &mut script);
            done(std::io::stdout().write_all(&script).map_err(|e| format!("could not write: {e}")))
        }
    }
}

/// Help goes to stdout; a mistake to stderr, with exit code 2.
fn explain(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return ExitCode::from(2);
    }
    let text = error.to_string();
    complain(text.strip_prefix("error: ").unwrap_or(&text).trim_end());
    if error.kind() == ErrorKind::InvalidSubcommand {
        complain("the commands for a running switch are etherctl's (etherctl --help)");
    }
    ExitCode::from(2)
}

/// Becomes etherctl: the one beside this program, else the one in PATH.
fn ctl(arguments: &[OsString]) -> ExitCode {
    let beside =
        std::env::current_exe().ok().map(|me| me.with_file_name("etherctl")).filter(|it| it.is_file());
    let program = beside.unwrap_or_else(|| PathBuf::from("etherctl"));
    let error = std::process::Command::new(&program).args(arguments).exec();
    complain(&format!("ctl: {} could not be run: {error}; is etherctl installed?", program.display()));
    ExitCode::FAILURE
}

fn man(directory: &Path) -> Result<(), String> {
    let fail = |e: std::io::Error| format!("{}: could not write man pages: {e}", directory.display());
    std::fs::create_dir_all(directory).map_err(fail)?;
    clap_mangen::generate_to(Cli::command(), directory).map_err(fail)
}

fn done(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            complain(&why);
            ExitCode::FAILURE
        }
    }
}
