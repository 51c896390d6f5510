//! The running state written back as a configuration file, comments and order kept.
//!
//! [`render`] is pure: text in, text out. [`write`] replaces a file in one step, so that a full disk
//! leaves the old one. Passwords are written too: this file is where they live, hence mode 0600.

mod values;

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use toml_edit::{ArrayOfTables, DocumentMut, InlineTable, Item, Table, TableLike, Value};
use zeroize::Zeroizing;

use super::apply::{Running, pair};
use super::config::{Config, Layer};
use super::read::{self, OPTIONS, PORT};
use crate::port::spec::{LinkOptions, PortSpec};
use crate::sys::sandbox::{self, hint};
use values::{entries, option_value, port_value, user_table};

/// The text of a file that starts a switch as this one runs. `existing` is the text to be updated,
/// `name` how messages call it.
pub fn render(
    name: &str,
    existing: Option<&str>,
    config: &Config,
    running: &[Running],
) -> Result<Zeroizing<String>, String> {
    let foreign = || {
        // No word about its content: it may be a file that its reader had better not see.
        format!("not overwritten, since it is no valid etherws configuration (etherws check {name} says why)")
    };
    let layer = read::parse(name, existing.unwrap_or_default()).map_err(|_| foreign())?;
    let theirs = layer.resolve().map_err(|_| foreign())?;
    let default = Layer::default().resolve().map_err(|_| foreign())?;
    let mut document: DocumentMut =
        existing.unwrap_or_default().parse().map_err(|e: toml_edit::TomlError| e.to_string())?;
    // What stands in a file of comments alone is above what comes.
    let mut head = String::new();
    if document.is_empty() && document.trailing().as_str().is_some_and(|text| text.contains('#')) {
        head = document.trailing().as_str().unwrap_or_default().to_owned();
        document.set_trailing("");
    }
    settings(&mut document, config, &theirs, &default);
    if theirs.door.users != config.door.users {
        let tables = config.door.users.iter().map(user_table);
        document.insert("user", Item::ArrayOfTables(tables.collect()));
    }
    ports(&mut document, &theirs, running);
    let text = put_together(&head, &document)?;
    // What cannot be read back must not replace what can.
    read::parse(name, &text).map_err(|errors| format!("could not be saved: {}", errors.join("; ")))?;
    Ok(text)
}

/// The text, which may hold passwords. Measured first: a text that grows leaves copies behind.
fn put_together(head: &str, document: &DocumentMut) -> Result<Zeroizing<String>, String> {
    let fail = |e: std::fmt::Error| format!("could not be saved: {e}");
    let mut length = Length(0);
    write!(length, "{document}").map_err(fail)?;
    let mut text = Zeroizing::new(String::with_capacity(length.0));
    write!(*text, "{document}").map_err(fail)?;
    if head.is_empty() {
        return Ok(text);
    }
    let between = if text.is_empty() || head.ends_with("\n\n") { "" } else { "\n" };
    let mut whole = Zeroizing::new(String::with_capacity(head.len() + 1 + text.len()));
    [head, between, text.trim_start_matches('\n')].iter().for_each(|part| whole.push_str(part));
    Ok(whole)
}

/// Counts bytes, and keeps none.
struct Length(usize);

impl std::fmt::Write for Length {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0 += text.len();
        Ok(())
    }
}

/// Replaces `path` by `text` in one step, mode 0600.
pub fn write(path: &Path, text: &str) -> Result<PathBuf, String> {
    let fail = |what: &str, e: &dyn std::fmt::Display| format!("{}: {what}: {e}", path.display());
    // Through a symbolic link, the file behind it.
    let path = match fs::canonicalize(path) {
        Ok(path) => path,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => path.to_owned(),
        Err(e) => return Err(fail("could not be saved", &e)),
    };
    let directory = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file_name = path.file_name().ok_or_else(|| fail("could not be saved", &"not a file name"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(file_name);
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = directory.join(temporary);
    let result = (|| {
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(directory)?.sync_all()
    })();
    result.map_err(|e| {
        let _ = fs::remove_file(&temporary);
        let why = format!("{e}{}", hint(&path, &e, sandbox::Want::Write));
        fail("could not be saved, the old file stays", &why)
    })?;
    Ok(path)
}

/// Settings in which the running switch differs from what the file says are set, and taken out where
/// the default is in force.
fn settings(document: &mut DocumentMut, config: &Config, theirs: &Config, default: &Config) {
    let all = [config, theirs, default].map(entries);
    let [ours, theirs, default] = all;
    for ((ours, theirs), default) in ours.into_iter().zip(theirs).zip(default) {
        let (path, key, value) = ours;
        // A service that is off for now keeps its settings.
        if path == ["listen"] && key != "enabled" && config.door.listen.is_none() {
            continue;
        }
        if text(value.as_ref()) == text(theirs.2.as_ref()) {
            continue;
        }
        let keep = value.filter(|value| text(Some(value)) != text(default.2.as_ref()));
        let mut table: &mut dyn TableLike = document.as_table_mut();
        for name in path {
            let item = table.entry(name).or_insert_with(|| Item::Table(Table::new()));
            let Some(inner) = item.as_table_like_mut() else { return };
            table = inner;
        }
        set(table, key, keep);
    }
    // Tables that were opened for nothing.
    for name in ["switch", "listen", "metrics", "limits", "sandbox"] {
        if document
            .get(name)
            .and_then(Item::as_table)
            .is_some_and(|table| table.is_empty() && !theirs_has(table))
        {
            document.remove(name);
        }
    }
    // A bare [control.tcp] asks for TCP control with its defaults.
    let asked = config.door.control.tcp.is_some();
    if let Some(control) = document.get_mut("control").and_then(Item::as_table_like_mut) {
        if !asked {
            control.remove("tcp");
        }
        if control.is_empty() {
            document.remove("control");
        }
    }
    if asked {
        let control = document.entry("control").or_insert_with(|| {
            let mut table = Table::new();
            table.set_implicit(true);
            Item::Table(table)
        });
        if let Some(control) = control.as_table_like_mut() {
            control.entry("tcp").or_insert_with(|| Item::Table(Table::new()));
        }
    }
}

/// True for a table that stood in the file before, which may hold comments.
fn theirs_has(table: &Table) -> bool {
    table.position().is_some()
}

fn text(value: Option<&Value>) -> Option<String> {
    value.map(|value| {
        let mut value = value.clone();
        value.decor_mut().clear();
        value.to_string()
    })
}

fn ports(document: &mut DocumentMut, theirs: &Config, running: &[Running]) {
    let old = match document.remove("port") {
        Some(Item::ArrayOfTables(tables)) => tables,
        Some(other) => other.into_array_of_tables().unwrap_or_default(),
        None => ArrayOfTables::new(),
    };
    let specs: Vec<PortSpec> = running.iter().map(|port| port.spec.clone()).collect();
    let have: Vec<_> = theirs.ports.iter().map(|spec| (spec.name.as_deref(), spec)).collect();
    let found = pair(&specs, &have);

    let mut tables = ArrayOfTables::new();
    let mut kept_comment = String::new();
    for (index, mut table) in old.into_iter().enumerate() {
        match found.iter().position(|at| *at == Some(index)) {
            Some(ran) => {
                let mut spec = specs[ran].clone();
                let theirs = &theirs.ports[index];
                // The name that would be chosen anyway.
                if theirs.name.is_none() && spec.name.as_ref() == Some(&spec.target) {
                    spec.name = None;
                }
                update(&mut table, Some(theirs), &spec);
                comment_before(&mut table, &std::mem::take(&mut kept_comment));
                tables.push(table);
            }
            None => kept_comment.push_str(&heading(&table)),
        }
    }
    for (_, spec) in specs.iter().enumerate().filter(|(ran, _)| found[*ran].is_none()) {
        let mut table = Table::new();
        update(&mut table, None, spec);
        if !document.is_empty() || !tables.is_empty() {
            table.decor_mut().set_prefix("\n");
        }
        comment_before(&mut table, &std::mem::take(&mut kept_comment));
        tables.push(table);
    }
    if !kept_comment.is_empty() {
        let trailing = document.trailing().as_str().unwrap_or_default().to_owned();
        document.set_trailing(format!("{kept_comment}{trailing}"));
    }
    if !tables.is_empty() {
        document.insert("port", Item::ArrayOfTables(tables));
    }
}

/// The comment above a table that is set off from it by an empty line, so not about it alone.
fn heading(table: &Table) -> String {
    let prefix = table.decor().prefix().and_then(|prefix| prefix.as_str()).unwrap_or_default();
    match prefix.rfind("\n\n") {
        Some(at) if prefix[..at].contains('#') => prefix[..at + 2].to_owned(),
        _ => String::new(),
    }
}

fn comment_before(table: &mut Table, comment: &str) {
    if !comment.is_empty() {
        let prefix = table.decor().prefix().and_then(|prefix| prefix.as_str()).unwrap_or_default().to_owned();
        table.decor_mut().set_prefix(format!("{comment}{}", prefix.trim_start_matches('\n')));
    }
}

/// Sets those keys of a `[[port]]` table in which it differs from `spec`.
fn update(table: &mut Table, old: Option<&PortSpec>, spec: &PortSpec) {
    for key in PORT.iter().filter(|key| **key != "options") {
        let value = port_value(spec, key);
        let same = old.is_some_and(|old| text(port_value(old, key).as_ref()) == text(value.as_ref()));
        if !same {
            set(table, key, value);
        }
    }
    if old.is_some_and(|old| old.options == spec.options) {
        return;
    }
    if spec.options == LinkOptions::default() {
        table.remove("options");
        return;
    }
    let item = table.entry("options").or_insert_with(|| Item::Value(Value::InlineTable(InlineTable::new())));
    if let Some(options) = item.as_table_like_mut() {
        for key in OPTIONS {
            let value = option_value(&spec.options, key);
            let same =
                old.is_some_and(|old| text(option_value(&old.options, key).as_ref()) == text(value.as_ref()));
            if !same {
                set(options, key, value);
            }
        }
    }
}

/// Sets or takes out a key; a comment behind the old value stays.
fn set(table: &mut dyn TableLike, key: &str, value: Option<Value>) {
    let Some(mut value) = value else {
        table.remove(key);
        return;
    };
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) => {
            *value.decor_mut() = old.decor().clone();
            *old = value;
        }
        None => drop(table.insert(key, Item::Value(value))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::daemon::config::label;

    fn config(text: &str) -> Config {
        read::parse("f", text).unwrap().resolve().unwrap()
    }

    fn running(text: &str) -> Vec<Running> {
        let ports = config(text).ports;
        ports
            .into_iter()
            .zip(1..)
            .map(|(spec, number)| Running { number, name: label(&spec), spec })
            .collect()
    }

    const FILE: &str = "# The switch of the house.\n\n[switch]\nageout = 60 # short\n\n\
        # Ports.\n\n# The guests' side.\n[[port]]\ntype = 'tap' # a tap\ntarget = \"tap0\"\nmtu = 0x5dc\n\n\
        [[port]]\nname = \"up\"\ntype = \"client\"\ntarget = \"wss://h/\"\n[port.options]\nuser = \"u\" # who\npasswd = \"p\"\n\n\
        [[user]]\nuser = \"alice\"\n# the end\n";

    /// As text that may be shown.
    fn render(
        name: &str,
        existing: Option<&str>,
        config: &Config,
        running: &[Running],
    ) -> Result<String, String> {
        super::render(name, existing, config, running).map(|text| text.to_string())
    }

    #[test]
    fn saving_what_the_file_says_changes_nothing() {
        assert_eq!(render("f", Some(FILE), &config(FILE), &running(FILE)).unwrap(), FILE);
        let inline = "port = [{ type = 'tap', target = 't' }]\n";
        let saved = render("f", Some(inline), &config(inline), &running(inline)).unwrap();
        assert_eq!(config(&saved), config(inline), "{saved}");
        assert_eq!(render("f", None, &config(""), &[]).unwrap(), "");
    }

    #[test]
    fn a_file_of_comments_alone_keeps_them_at_its_head() {
        for head in ["# mine\n", "# mine\n\n", "\n# mine\n# and more\n"] {
            let text = "[[port]]\ntype = \"tap\"\ntarget = \"tap0\"\n";
            let saved = render("f", Some(head), &config(text), &running(text)).unwrap();
            assert_eq!(saved, format!("{}\n\n{text}", head.trim_end()), "{saved}");
            assert_eq!(render("f", Some(head), &config(""), &[]).unwrap(), head);
        }
    }

    #[test]
    fn ports_are_updated_added_and_removed_around_the_comments() {
        let mut ports = running(FILE);
        ports[1].spec.options.passwd = Some("new".into());
        ports[1].spec.shut = true;
        ports.remove(0);
        ports.extend(running("[[port]]\ntype='tap'\ntarget='tap1'\naccess=7\naddress=['192.0.2.1/24']"));
        let saved = render("f", Some(FILE), &config(FILE), &ports).unwrap();
        let wanted = "# The switch of the house.\n\n[switch]\nageout = 60 # short\n\n\
            # Ports.\n\n[[port]]\nname = \"up\"\ntype = \"client\"\ntarget = \"wss://h/\"\nshut = true\n\
            [port.options]\nuser = \"u\" # who\npasswd = \"new\"\n\n\
            [[port]]\ntype = \"tap\"\ntarget = \"tap1\"\naccess = 7\naddress = [\"192.0.2.1/24\"]\n\n\
            [[user]]\nuser = \"alice\"\n# the end\n";
        assert_eq!(saved, wanted, "{saved}");
    }

    #[test]
    fn saved_and_loaded_is_the_same() {
        let text = "[switch]\nageout=5\nmax_macs=9\nstorm={unknown=5}\nloop_guard=false\nping=9\nlog='warn'\nthreads=2\n[listen]\nhost='::1'\nport=0\npath='/x'\norigin=['a']\n\
            trusted_proxy=['10.0.0.0/8']\nproxy_protocol=true\noffload=false\ncongestion='reno'\nresume=9\nsslkey='k'\nsslcert='c'\nsslclientca='ca'\n\
            [control]\nsock='/x/y'\n[control.tcp]\n[metrics]\nlisten='::1'\n[sandbox]\nenabled=true\nuser='u'\nread=['/a']\nwrite=['/b','/c']\n\
            [[port]]\ntype='tap'\ntarget='t'\nname='a'\nshut=true\ntrunk='1-3,7'\nnative=7\nisolated=true\n\
            bpdu='forward'\nmacs=['02:00:00:00:00:07']\nethertypes=['arp','0x88b6']\nrate=9\nstorm={broadcast=1,unknown=2}\n\
            max_macs=3\nloop_guard=false\npersist=true\naddress=['192.0.2.1/24','2001:db8::1/64']\nmtu=9000\nmac='02:00:00:00:00:01'\n\
            [[port]]\ntype='client'\ntarget='wss://h/'\naccess=4\ncongestion='bbr'\npace=7\noptions={user='u',passwd='\"\\',cacerts='''-----BEGIN\nx''',insecure=true,proxy='none',connections=3}\n\
            [[port]]\ntype='netdev'\ntarget='eth1'\noffload=false\nstorm='off'\n\
            [[port]]\ntype='qemu'\ntarget='unix:/run/vms.sock'\naccess=3\n\
            [[port]]\ntype='qemu'\ntarget='tcp:192.0.2.1:5000'\noptions={connect=true,anonymous=true}\n\
            [[user]]\ntoken='t'\nport='p'\ntrunk='4'\nnative=9\nisolated=true\nmacs=['02:00:00:00:00:02']\nethertypes=['ipv6']\nrate=5\nstorm='off'\nmax_macs=4\nloop_guard=false\ncongestion='default'\npace=6\nlinks=2\n";
        let whole = config(text);
        for existing in
            [None, Some(FILE), Some(text), Some("[listen]\nenabled=false\n[control.tcp]\nport=5\n")]
        {
            let saved = render("f", existing, &whole, &running(text)).unwrap();
            let mut loaded = config(&saved);
            // The order of a file that is there already is kept.
            loaded.ports.sort_by_key(|spec| whole.ports.iter().position(|other| other == spec));
            assert_eq!(loaded, whole, "{saved}");
        }
        // And back to nothing.
        let saved = render("f", Some(text), &config(""), &[]).unwrap();
        assert_eq!(config(&saved), config(""), "{saved}");
    }

    #[test]
    fn a_service_that_is_off_keeps_its_settings() {
        let text = "[listen]\nport = 8080\nenabled = true\n";
        let mut off = config(text);
        off.door.listen = None;
        let saved = render("f", Some(text), &off, &[]).unwrap();
        assert_eq!(saved, "[listen]\nport = 8080\nenabled = false\n");
    }

    #[test]
    fn what_is_not_ours_is_not_overwritten() {
        for text in ["root:x:0:0:root", "[package]\nname = 'x'\n"] {
            let why = render("f", Some(text), &config(""), &[]).unwrap_err();
            assert!(why.contains("no valid etherws configuration") && !why.contains("root"), "{why}");
        }
    }

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("etherws-save-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn bad_58_the_file_is_replaced_at_once_and_kept_private() {
        let directory = Directory::new("replace");
        let (file, link) = (directory.0.join("a.toml"), directory.0.join("link.toml"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(write(&link, "new").unwrap(), fs::canonicalize(&file).unwrap());
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(&directory.0).unwrap().count(), 2, "a temporary file was left");
    }

    #[test]
    fn bad_74_on_a_full_disk_the_old_file_stays() {
        // /dev/full cannot be renamed over, so the failure is one of the directory here.
        let why = write(Path::new("/proc/etherws.toml"), "x").unwrap_err();
        assert!(why.starts_with("/proc/etherws.toml: could not be saved, the old file stays: "), "{why}");
    }
}
