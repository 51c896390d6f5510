//! A new configuration on a running switch: what differs is changed, what does not is not touched.
//!
//! Three states meet: the old file, the new one, and what runs. A setting is changed when the two files
//! differ in it; so a port added, closed or deleted by hand stays as it is while the file says the same
//! about it as before.

use std::fmt;

use super::check::same_line;
use super::config::{Config, label, target_text};
use super::logs::Logs;
use crate::control::http::Door;
use crate::port::spec::{InterfaceChange, PortChange, PortRef, PortSpec, VlanChange};
use crate::port::{PortError, Ports};

/// A port that runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Running {
    pub number: u32,
    pub name: String,
    pub spec: PortSpec,
}

impl Running {
    /// Every configured port (no incoming links).
    pub fn all(ports: &Ports) -> Vec<Self> {
        let names = ports.list();
        let with_name = |(number, spec): (u32, PortSpec)| {
            let listed = names.iter().find(|entry| entry.port == number).map(|entry| entry.name.clone());
            let name = listed.or_else(|| spec.name.clone()).unwrap_or_else(|| spec.target.clone());
            Self { number, name, spec }
        };
        ports.specs().into_iter().map(with_name).collect()
    }
}

/// One change to a running switch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    Remove {
        number: u32,
        name: String,
    },
    /// What cannot change in place: type, target, options, offload.
    Recreate {
        number: u32,
        name: String,
        old: Box<PortSpec>,
        new: Box<PortSpec>,
    },
    Change {
        number: u32,
        name: String,
        change: PortChange,
        what: String,
    },
    Interface {
        number: u32,
        name: String,
        change: InterfaceChange,
        what: String,
    },
    Add(Box<PortSpec>),
    /// Nothing to do but to say so.
    Note(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remove { name, .. } => write!(f, "port {name} removed"),
            Self::Recreate { name, new, .. } => {
                write!(f, "port {name} recreated ({} {})", new.kind, target_text(new))
            }
            Self::Change { name, what, .. } | Self::Interface { name, what, .. } => {
                write!(f, "port {name} changed: {what}")
            }
            Self::Add(spec) => write!(f, "port {} added ({} {})", label(spec), spec.kind, target_text(spec)),
            Self::Note(text) => f.write_str(text),
        }
    }
}

/// The steps from what runs to what the new file asks for: removals first, since they may free the
/// name or the device that another step needs.
pub fn plan(old: &[PortSpec], new: &[PortSpec], running: &[Running]) -> Vec<Step> {
    let ran: Vec<_> = running.iter().map(|port| (Some(port.name.as_str()), &port.spec)).collect();
    let before: Vec<_> = old.iter().map(|spec| (spec.name.as_deref(), spec)).collect();
    let (new_old, new_ran, old_ran) = (pair(new, &before), pair(new, &ran), pair(old, &ran));

    let removed = old_ran.iter().flatten().filter(|ran| !new_ran.contains(&Some(**ran)));
    let mut steps: Vec<Step> = removed
        .map(|&ran| Step::Remove { number: running[ran].number, name: running[ran].name.clone() })
        .collect();
    let (mut changes, mut adds) = (Vec::new(), Vec::new());
    for (index, spec) in new.iter().enumerate() {
        let base = new_old[index].map(|old_index| &old[old_index]);
        if base == Some(spec) {
            continue;
        }
        match new_ran[index] {
            Some(ran) => changes.extend(difference(base, &running[ran], spec)),
            None => adds.push(Step::Add(Box::new(spec.clone()))),
        }
    }
    steps.extend(changes);
    steps.extend(adds);
    steps
}

/// For each of `wanted` the index of the same port in `have`: by name, else by device or URL.
pub fn pair(wanted: &[PortSpec], have: &[(Option<&str>, &PortSpec)]) -> Vec<Option<usize>> {
    let by_name = |spec: &PortSpec| {
        let name = spec.name.as_deref()?;
        have.iter().position(|(other, _)| *other == Some(name))
    };
    let mut found: Vec<_> = wanted.iter().map(by_name).collect();
    for (index, spec) in wanted.iter().enumerate() {
        if found[index].is_none() {
            let free = |at: &usize| !found.contains(&Some(*at)) && same_line(spec, have[*at].1);
            found[index] = (0..have.len()).find(free);
        }
    }
    found
}

fn difference(base: Option<&PortSpec>, running: &Running, new: &PortSpec) -> Vec<Step> {
    let (number, name, run) = (running.number, running.name.clone(), &running.spec);
    macro_rules! differs {
        ($($field:ident).+) => {
            base.is_none_or(|base| base.$($field).+ != new.$($field).+) && run.$($field).+ != new.$($field).+
        };
    }
    let made = differs!(kind) || differs!(target) || differs!(options) || differs!(offload);
    if made || differs!(persist) || differs!(bridge) {
        let mut new = new.clone();
        // The stable name stays, even where it was chosen and not given.
        new.name.get_or_insert_with(|| name.clone());
        return vec![Step::Recreate { number, name, old: Box::new(run.clone()), new: Box::new(new) }];
    }

    let mut steps = Vec::new();
    let mut what = Vec::new();
    let mut change = PortChange::default();
    if differs!(shut) {
        change.shut = Some(new.shut);
        what.push(if new.shut { "shut".to_owned() } else { "opened".to_owned() });
    }
    if differs!(access) || differs!(trunk) || differs!(native) {
        let rule = VlanChange { access: new.access, trunk: new.trunk.clone(), native: new.native };
        what.push(vlan_text(&rule));
        change.vlan = Some(rule);
    }
    if differs!(isolated) {
        change.isolated = Some(new.isolated);
        what.push(if new.isolated { "isolated".to_owned() } else { "not isolated".to_owned() });
    }
    if differs!(bpdu) {
        change.bpdu = Some(new.bpdu);
        what.push(format!("bpdu {:?}", new.bpdu).to_lowercase());
    }
    guard_difference(base, running, new, &mut change, &mut what);
    if differs!(congestion) {
        change.congestion = Some(new.congestion.clone());
        what.push(format!("congestion {}", new.congestion));
    }
    if differs!(pace) {
        change.pace = Some(new.pace);
        what.push(new.pace.map_or("no pace".to_owned(), |pace| format!("pace {pace}")));
    }
    let renamed = new.name.as_ref().filter(|new_name| **new_name != name);
    if let Some(new_name) = renamed.filter(|_| differs!(name)) {
        change.name = Some(new_name.clone());
        what.push(format!("name {new_name}"));
    }
    if !what.is_empty() {
        steps.push(Step::Change { number, name: name.clone(), change, what: what.join(", ") });
    }
    interface_difference(base, running, new, &mut steps);
    steps
}

fn guard_difference(
    base: Option<&PortSpec>,
    running: &Running,
    new: &PortSpec,
    change: &mut PortChange,
    what: &mut Vec<String>,
) {
    let run = &running.spec;
    macro_rules! differs {
        ($field:ident) => {
            base.is_none_or(|base| base.$field != new.$field) && run.$field != new.$field
        };
    }
    if differs!(macs) {
        change.macs = Some(new.macs.clone());
        what.push(format!("macs {}", words(&new.macs)));
    }
    if differs!(ethertypes) {
        change.ethertypes = Some(new.ethertypes.clone());
        what.push(format!("ethertypes {}", words(&new.ethertypes)));
    }
    if differs!(rate) {
        change.rate = Some(new.rate);
        what.push(new.rate.map_or("no rate limit".to_owned(), |rate| format!("rate {rate}")));
    }
    if differs!(storm) {
        change.storm = Some(new.storm);
        what.push(format!("storm {}", new.storm));
    }
    if differs!(max_macs) {
        change.max_macs = Some(new.max_macs);
        what.push(new.max_macs.map_or("max_macs default".to_owned(), |most| format!("max_macs {most}")));
    }
    if differs!(loop_guard) {
        change.loop_guard = Some(new.loop_guard);
        what.push(format!("loop_guard {}", new.loop_guard));
    }
}

/// `all` when there is none to name.
fn words<T: ToString>(items: &[T]) -> String {
    match items {
        [] => "all".to_owned(),
        items => items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    }
}

fn interface_difference(base: Option<&PortSpec>, running: &Running, new: &PortSpec, steps: &mut Vec<Step>) {
    let (run, mut what, mut gone) = (&running.spec, Vec::new(), Vec::new());
    let mut change = InterfaceChange::default();
    if base.is_none_or(|base| base.address != new.address) && run.address != new.address {
        let family = |v4: bool| new.address.iter().any(|net| net.addr().is_ipv4() == v4);
        if run.address.iter().any(|net| !family(net.addr().is_ipv4())) {
            gone.push("address");
        }
        change.address.clone_from(&new.address);
        what.extend(new.address.iter().map(|net| format!("address {net}")));
    }
    if base.is_none_or(|base| base.mtu != new.mtu) && run.mtu != new.mtu {
        change.mtu = new.mtu;
        what.extend(new.mtu.map(|mtu| format!("mtu {mtu}")));
        gone.extend(new.mtu.is_none().then_some("mtu"));
    }
    if base.is_none_or(|base| base.mac != new.mac) && run.mac != new.mac {
        change.mac = new.mac;
        what.extend(new.mac.map(|mac| format!("mac {mac}")));
        gone.extend(new.mac.is_none().then_some("mac"));
    }
    let name = running.name.clone();
    if !what.is_empty() {
        steps.push(Step::Interface {
            number: running.number,
            name: name.clone(),
            change,
            what: what.join(", "),
        });
    }
    // A base that never had it does not take it away: then it was set by hand.
    gone.retain(|key| {
        base.is_some_and(|base| match *key {
            "address" => !base.address.is_empty(),
            "mtu" => base.mtu.is_some(),
            _ => base.mac.is_some(),
        })
    });
    if !gone.is_empty() {
        steps.push(Step::Note(format!(
            "port {name}: {} no longer in the file; the device keeps it until it is made anew",
            gone.join(", ")
        )));
    }
}

fn vlan_text(rule: &VlanChange) -> String {
    match (&rule.access, &rule.trunk, &rule.native) {
        (Some(vid), ..) => format!("access {vid}"),
        (None, Some(trunk), Some(native)) => format!("trunk {trunk} native {native}"),
        (None, Some(trunk), None) => format!("trunk {trunk}"),
        (None, None, _) => "transparent".to_owned(),
    }
}

/// Makes the running switch that of `new`; `current` follows what is in force. What changed, one line
/// each. The services go first, since they change all or nothing. When a port cannot be changed, all that was
/// done before is undone, and the error says where that could not be.
pub async fn apply(
    current: &mut Config,
    new: Config,
    ports: &Ports,
    door: &Door,
    logs: &Logs,
) -> Result<Vec<String>, String> {
    let mut lines =
        door.reload(new.door.clone()).await.map_err(|why| format!("nothing was changed: {why}"))?;
    for step in plan(&current.ports, &new.ports, &Running::all(ports)) {
        if let Err(why) = run(&step, ports).await {
            let left = undo(current, &new, ports, door).await;
            return Err(failed(&step, &why, &left));
        }
        lines.push(step.to_string());
    }
    if current.log != new.log {
        logs.set(new.log.as_deref())?;
        lines.push(format!("log filter {}", new.log.as_deref().unwrap_or("info")));
    }
    if current.switch != new.switch {
        if current.switch.threads != new.switch.threads {
            lines.push("threads: takes effect at the next start".to_owned());
        }
        if current.switch.node != new.switch.node {
            lines.push("node: takes effect at the next start".to_owned());
        }
        if current.switch.ageout != new.switch.ageout {
            lines.push(format!("ageout {} s", new.switch.ageout.as_secs()));
        }
        if current.switch.announce != new.switch.announce {
            lines.push(format!("announce {}", new.switch.announce));
        }
        if current.switch.suppress != new.switch.suppress {
            lines.push(format!("suppress {}", new.switch.suppress));
        }
        if current.switch.snoop != new.switch.snoop {
            lines.push(format!("snoop {}", new.switch.snoop));
        }
        if current.switch.snoop_interval != new.switch.snoop_interval {
            lines.push(format!("snoop_interval {} s", new.switch.snoop_interval.as_secs()));
        }
        if current.switch.guard != new.switch.guard {
            lines.push("guards of all ports changed".to_owned());
        }
        if current.switch.fdb_limit != new.switch.fdb_limit {
            lines.push("fdb_limit: takes effect at the next start".to_owned());
        }
        if current.switch.prof != new.switch.prof {
            lines.push(format!("prof {}", new.switch.prof.level.name()));
        }
        if current.switch.ping != new.switch.ping {
            let seconds = new.switch.ping.map_or(15, |ping| ping.as_secs());
            lines.push(format!("ping {seconds} s, from each link's next connection"));
        }
        ports.reconfigure(&new.switch).await;
    }
    if current.sandbox != new.sandbox {
        lines.push("sandbox: takes effect at the next start".to_owned());
    }
    *current = new;
    Ok(lines)
}

/// Makes the ports and services those of `current` again after a part of `new` was applied: the same plan,
/// the other way round. What could not be undone.
async fn undo(current: &Config, new: &Config, ports: &Ports, door: &Door) -> Vec<String> {
    let mut left = Vec::new();
    for step in plan(&new.ports, &current.ports, &Running::all(ports)) {
        match (&step, run(&step, ports).await) {
            (Step::Note(note), _) => left.push(note.clone()),
            (_, Ok(())) => {}
            (_, Err(why)) => left.push(format!("{step}: {why}")),
        }
    }
    left.extend(door.reload(current.door.clone()).await.err());
    left
}

/// Takes one step.
pub async fn run(step: &Step, ports: &Ports) -> Result<(), String> {
    let text = |error: PortError| error.to_string();
    match step {
        Step::Remove { number, .. } => gone_is_gone(ports.delete(&PortRef::Number(*number)).await.map(drop)),
        Step::Recreate { number, old, new, .. } => {
            gone_is_gone(ports.delete(&PortRef::Number(*number)).await.map(drop))?;
            let Err(why) = ports.add((**new).clone()).await else { return Ok(()) };
            match ports.add((**old).clone()).await {
                Ok(_) => Err(format!("{why} (the port as it was is back)")),
                Err(also) => Err(format!("{why} (the port as it was could not be put back: {also})")),
            }
        }
        Step::Change { number, change, .. } => {
            ports.set(&PortRef::Number(*number), change.clone()).await.map(drop).map_err(text)
        }
        Step::Interface { number, change, .. } => {
            ports.set_interface(&PortRef::Number(*number), change.clone()).await.map(drop).map_err(text)
        }
        Step::Add(spec) => ports.add((**spec).clone()).await.map(drop).map_err(text),
        Step::Note(_) => Ok(()),
    }
}

/// A port that is to go may have gone meanwhile.
fn gone_is_gone(result: Result<(), PortError>) -> Result<(), String> {
    match result {
        Ok(()) | Err(PortError::NotFound(_)) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

fn failed(step: &Step, why: &str, left: &[String]) -> String {
    let text = format!("could not apply \"{step}\": {why}");
    match left {
        [] => format!("nothing was changed: {text}"),
        left => format!("{text}. what was applied before is undone but for: {}", left.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::read::parse;

    fn specs(text: &str) -> Vec<PortSpec> {
        parse("f", text).unwrap().ports
    }

    /// As if `text` had been started: numbers from 1, names chosen from the target.
    fn running(text: &str) -> Vec<Running> {
        let with_name = |(index, mut spec): (usize, PortSpec)| {
            let name = spec.name.get_or_insert_with(|| spec.target.clone()).clone();
            Running { number: u32::try_from(index).unwrap() + 1, name, spec }
        };
        specs(text).into_iter().enumerate().map(with_name).collect()
    }

    const TAP: &str = "[[port]]\ntype='tap'\ntarget='tap0'\n";
    const LINK: &str = "[[port]]\ntype='client'\ntarget='ws://h/'\nname='up'\n";

    fn lines(old: &str, new: &str, runs: &str) -> Vec<String> {
        plan(&specs(old), &specs(new), &running(runs)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_difference_is_planned_and_nothing_else() {
        let both = format!("{TAP}{LINK}");
        let tap = |more: &str| format!("{TAP}{more}\n");
        for (old, new, wanted) in [
            (both.clone(), both.clone(), vec![]),
            (both.clone(), format!("{LINK}{TAP}"), vec![]),
            (both.clone(), LINK.to_owned(), vec!["port tap0 removed"]),
            (TAP.to_owned(), both.clone(), vec!["port up added (client ws://h/)"]),
            (tap(""), tap("shut=true"), vec!["port tap0 changed: shut"]),
            (tap("access=5"), tap("trunk='5-6'\nnative=5"), vec!["port tap0 changed: trunk 5-6 native 5"]),
            (tap("access=5"), tap(""), vec!["port tap0 changed: transparent"]),
            (
                tap(""),
                tap("isolated=true\nbpdu='forward'"),
                vec!["port tap0 changed: isolated, bpdu forward"],
            ),
            (tap("name='a'"), tap("name='b'"), vec!["port a changed: name b"]),
            (tap("name='a'"), tap(""), vec![]),
            (
                tap(""),
                tap("mtu=1400\naddress=['192.0.2.1/24']"),
                vec!["port tap0 changed: address 192.0.2.1/24, mtu 1400"],
            ),
            (tap(""), tap("persist=true"), vec!["port tap0 recreated (tap tap0)"]),
            (tap(""), tap("bridge=\"br0\""), vec!["port tap0 recreated (tap tap0)"]),
            (tap(""), tap("offload=false"), vec!["port tap0 recreated (tap tap0)"]),
            (tap(""), tap("offload=true"), vec![]),
            (LINK.to_owned(), LINK.replace("//h/", "//i/"), vec!["port up recreated (client ws://i/)"]),
            (LINK.to_owned(), format!("{LINK}congestion='bbr'"), vec!["port up changed: congestion bbr"]),
            (LINK.to_owned(), format!("{LINK}pace=5"), vec!["port up changed: pace 5"]),
            (format!("{LINK}pace=5"), LINK.to_owned(), vec!["port up changed: no pace"]),
            (
                LINK.to_owned(),
                format!("{LINK}options={{ping=3}}"),
                vec!["port up recreated (client ws://h/)"],
            ),
            (tap(""), TAP.replace("tap0", "tap1"), vec!["port tap0 removed", "port tap1 added (tap tap1)"]),
        ] {
            assert_eq!(lines(&old, &new, &old), wanted, "{old}\n=>\n{new}");
        }
    }

    #[test]
    fn what_was_changed_by_hand_stays_while_the_file_says_the_same() {
        let both = format!("{TAP}{LINK}");
        // Shut by hand.
        assert_eq!(lines(TAP, TAP, &format!("{TAP}shut=true")), Vec::<String>::new());
        assert_eq!(
            lines(TAP, &format!("{TAP}mtu=1400"), &format!("{TAP}shut=true")),
            ["port tap0 changed: mtu 1400"]
        );
        // Added by hand, deleted by hand.
        assert_eq!(lines(TAP, TAP, &both), Vec::<String>::new());
        assert_eq!(lines(&both, &both, TAP), Vec::<String>::new());
        assert_eq!(lines(&both, LINK, LINK), Vec::<String>::new());
        // Added by hand, then written into the file.
        assert_eq!(lines(TAP, &both, &both), Vec::<String>::new());
    }

    #[test]
    fn a_failed_reload_can_be_tried_again() {
        // The removal was done, the addition was not; the old file is still the base.
        let new = format!("{LINK}[[port]]\ntype='tap'\ntarget='tap9'");
        assert_eq!(lines(TAP, &new, LINK), ["port tap9 added (tap tap9)"]);
    }

    #[test]
    fn what_cannot_be_unset_is_said() {
        let old = format!("{TAP}mtu=1400\naddress=['192.0.2.1/24','2001:db8::1/64']");
        let new = format!("{TAP}address=['192.0.2.1/24']");
        let steps = lines(&old, &new, &old);
        assert_eq!(steps[0], "port tap0 changed: address 192.0.2.1/24");
        assert!(steps[1].contains("address, mtu no longer in the file"), "{steps:?}");
    }

    #[test]
    fn removals_come_first_and_credentials_never() {
        let link = LINK.replace("//h/", "//u:secret@h/");
        let steps = lines(TAP, &format!("{link}[[port]]\ntype='netdev'\ntarget='eth1'"), TAP);
        assert_eq!(
            steps,
            ["port tap0 removed", "port up added (client ws://h/)", "port eth1 added (netdev eth1)"]
        );
    }

    #[test]
    fn a_failure_says_what_is_left_of_it() {
        let step = Step::Note("b".to_owned());
        assert_eq!(failed(&step, "no", &[]), "nothing was changed: could not apply \"b\": no");
        let text = failed(&step, "no", &["a".to_owned(), "c".to_owned()]);
        assert_eq!(text, "could not apply \"b\": no. what was applied before is undone but for: a; c");
    }

    #[test]
    fn the_way_back_undoes_what_was_done_and_nothing_else() {
        let other = LINK.replace("//h/", "//i/");
        let new = format!("{TAP}mtu=1400\n{other}[[port]]\ntype='tap'\ntarget='tap9'\n");
        // The link was made anew; the TAP was not reached, or had its MTU from someone's hand.
        let half = format!("{TAP}{other}");
        assert_eq!(lines(&new, &format!("{TAP}{LINK}"), &half), ["port up recreated (client ws://h/)"]);
        assert_eq!(lines(&new, &format!("{TAP}{LINK}"), &format!("{TAP}{LINK}")), Vec::<String>::new());
    }
}
