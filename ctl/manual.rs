//! etherctl.1 and completions, from the command line's own description.

use std::io;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_complete::env::Shells;
use clap_mangen::Man;

use crate::cli::Cli;
use crate::complete;

/// One page with every command's options.
pub fn write_page(dir: &Path) -> Result<(), String> {
    let file = dir.join("etherctl.1");
    page()
        .and_then(|page| std::fs::create_dir_all(dir).and_then(|()| std::fs::write(&file, page)))
        .map_err(|e| format!("could not write {}: {e}", file.display()))
}

/// A script by which the shell asks etherctl itself: ports' names are known to the switch alone.
pub fn completions(shell: Shell) -> Result<String, String> {
    let shells = Shells::builtins();
    let its = shells.completer(&shell.to_string()).ok_or_else(|| format!("no completions for {shell}"))?;
    let mut bytes = Vec::new();
    its.write_registration(complete::VARIABLE, "etherctl", "etherctl", "etherctl", &mut bytes)
        .map_err(|e| format!("could not write the completions: {e}"))?;
    let mut script = String::from_utf8_lossy(&bytes).into_owned();
    if shell == Shell::Zsh {
        // Found in fpath, the script itself is what the first TAB runs.
        script.push_str(
            "if [ \"$funcstack[1]\" = _etherctl ]; then _clap_dynamic_completer_etherctl \"$@\"; fi\n",
        );
    }
    Ok(script)
}

fn page() -> io::Result<Vec<u8>> {
    // Built without the automatic help command, whose pages would repeat all others.
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    page.extend(b".SH COMMANDS\n");
    render_commands(&command, &mut page)?;
    page.extend(LAST.bytes());
    man.render_version_section(&mut page)?;
    Ok(page)
}

fn render_commands(parent: &clap::Command, page: &mut Vec<u8>) -> io::Result<()> {
    for command in parent.get_subcommands().filter(|command| !command.is_hide_set()) {
        if command.has_subcommands() {
            render_commands(command, page)?;
            continue;
        }
        let name = command.get_bin_name().unwrap_or(command.get_name());
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let usage = command.clone().render_usage().to_string().replace('-', "\\-");
        page.extend(format!(".SS \"{name}\"\n{about}.\n.PP\n{usage}\n").bytes());
        // The global options stand at the top already.
        let own = command.clone().mut_args(|arg| {
            let hidden = arg.is_global_set() || matches!(arg.get_id().as_str(), "help" | "version");
            arg.hide(hidden)
        });
        let mut options = Vec::new();
        Man::new(own).render_options_section(&mut options)?;
        let options = String::from_utf8_lossy(&options).replacen(".SH OPTIONS\n", "", 1);
        // Headings of options are no sections of the page.
        page.extend(options.replace(".SH ", ".PP\n.B ").bytes());
    }
    Ok(())
}

/// What clap knows nothing of.
const LAST: &str = r#".SH EXIT STATUS
0 done; 1 not done, standard error says why; 2 wrong usage.
.B etherctl doctor
has its own.
.SH ENVIRONMENT
.TP
.B ETHERWS_CTLURL
The switch, where
.B \-\-ctlurl
does not name one.
.TP
.B NO_COLOR
Not empty: no colours.
.SH FILES
.TP
.I /run/etherws/ctl.sock
The Unix socket of the local switch; of a switch that is not root's,
.IR $XDG_RUNTIME_DIR/etherws/ctl.sock .
.SH SEE ALSO
.BR etherws (1)
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_command_and_its_options() {
        let page = String::from_utf8(page().unwrap()).unwrap();
        // tests/documents.rs looks for each command and option.
        for word in ["etherctl addport client", ".B \"DEVICE OR LINK\"", "ETHERWS_CTLURL", "EXIT STATUS"] {
            assert!(page.contains(word), "{word} is missing in {page}");
        }
        assert!(!page.contains("completions"), "hidden commands stay hidden");
        let (_, commands) = page.split_once(".SH COMMANDS").unwrap();
        assert!(!commands.contains("ctlinsecure"), "global options stand at the top alone");
    }
}
