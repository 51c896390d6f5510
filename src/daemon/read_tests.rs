//! Tests of [`super`].

use super::*;
use crate::port::spec::StormLimit;

const WHOLE: &str = r#"
[switch]
ageout = 60
fdb_limit = 100
max_macs = 50
storm = { broadcast = 10 }
loop_guard = false
threads = 2
ping = 20
log = "warn"
[listen]
host = "::"
port = 8080
path = "/lan"
htpasswd = "users"
tokens = "tokens"
origin = ["https://example.net"]
trusted_proxy = ["10.0.0.0/8", "::1"]
proxy_protocol = true
offload = false
congestion = "reno"
resume = 30
[control]
sock = "/tmp/ctl.sock"
[control.tcp]
port = 0
anonymous = true
[metrics]
listen = "[::1]:0"
[sandbox]
enabled = true
user = "nobody"
read = ["/srv/keys"]
write = ["/srv/profiles"]
[[port]]
type = "tap"
target = "tap0"
name = "lan"
trunk = "1,5-9"
native = 1
bpdu = "forward"
macs = ["02:00:00:00:00:03"]
ethertypes = ["arp", "ipv4", "0x88b6"]
rate = 8000
storm = "off"
max_macs = 2
loop_guard = false
persist = true
address = ["192.0.2.1/24", "2001:db8::1/64"]
mtu = 9000
mac = "02:00:00:00:00:01"
[[port]]
type = "client"
target = "wss://example.net/lan"
shut = true
access = 10
isolated = true
offload = false
congestion = "bbr"
pace = 8000000
options = { user = "u", passwd = "p", insecure = true, proxy = "none", ping = 5, connections = 4 }
[[port]]
type = "qemu"
target = "tcp:192.0.2.1:5000"
options = { anonymous = true }
[[port]]
type = "qemu"
target = "unix:/run/vm.sock"
options = { connect = true }
[[user]]
user = "alice"
port = "alice"
access = 7
macs = ["02:00:00:00:00:02"]
ethertypes = ["ipv6"]
rate = 1000000
storm = { unknown = 3, multicast = 4 }
max_macs = 1
loop_guard = false
congestion = "bbr"
pace = 4000000
links = 1
[[user]]
certificate = "bob"
trunk = "2-3"
"#;

#[test]
fn every_key_is_understood() {
    let config = parse("f", WHOLE).unwrap().resolve().unwrap();
    assert_eq!(
        (config.switch.ageout.as_secs(), config.switch.fdb_limit, config.switch.threads),
        (60, 100, 2)
    );
    let listen = config.door.listen.unwrap();
    assert_eq!((listen.port, listen.path.as_str(), listen.trusted_proxies.len()), (Some(8080), "/lan", 2));
    assert_eq!((listen.ping.unwrap().as_secs(), listen.offload), (20, false));
    assert_eq!((listen.congestion.to_string(), listen.resume.as_secs()), ("reno".to_owned(), 30));
    assert!(config.door.control.tcp.unwrap().anonymous);
    let metrics = config.door.metrics.unwrap();
    assert_eq!((metrics.host.as_str(), metrics.port), ("::1", 0));
    let sandbox = config.sandbox;
    assert_eq!((sandbox.enabled, sandbox.user.as_deref()), (true, Some("nobody")));
    assert_eq!((sandbox.read, sandbox.write), (vec!["/srv/keys".into()], vec!["/srv/profiles".into()]));
    let tap = &config.ports[0];
    assert_eq!((tap.trunk.as_ref().unwrap().to_string(), tap.native.unwrap().get()), ("1,5-9".to_owned(), 1));
    assert_eq!((tap.address.len(), tap.mtu, tap.bpdu, tap.persist), (2, Some(9000), Bpdu::Forward, true));
    assert!(tap.offload, "on unless it is turned off");
    assert_eq!((tap.macs.len(), tap.ethertypes.len(), tap.rate), (1, 3, Some(8000)));
    assert_eq!((tap.storm, tap.max_macs, tap.loop_guard), (StormLimit::Off, Some(2), false));
    let guard = config.switch.guard;
    assert_eq!((guard.storm.broadcast, guard.storm.multicast), (Some(10), Some(5_000)));
    assert_eq!((guard.max_macs, guard.loop_guard), (50, false));
    let link = &config.ports[1];
    assert_eq!(
        (link.options.passwd.as_deref(), link.options.ping, link.shut, link.offload),
        (Some("p"), Some(5), true, false)
    );
    assert_eq!(link.options.connections, Some(4));
    assert_eq!((link.congestion.to_string(), link.pace), ("bbr".to_owned(), Some(8_000_000)));
    let [listening, dialling] = &config.ports[2..] else { panic!("{:?}", config.ports) };
    let options = |spec: &PortSpec| (spec.kind, spec.options.connect, spec.options.anonymous);
    assert_eq!(options(listening), (PortKind::Qemu, false, true));
    assert_eq!(options(dialling), (PortKind::Qemu, true, false));
    let [alice, bob] = &config.door.users[..] else { panic!("{:?}", config.door.users) };
    assert_eq!((&alice.who, alice.profile.rate), (&Who::User("alice".to_owned()), Some(1_000_000)));
    let paced = |profile: &Profile| (profile.congestion.as_ref().map(ToString::to_string), profile.pace);
    assert_eq!(paced(&alice.profile), (Some("bbr".to_owned()), Some(4_000_000)));
    assert_eq!(paced(&bob.profile), (None, None));
    assert_eq!((alice.profile.ethertypes.len(), alice.profile.max_macs), (1, Some(1)));
    assert_eq!((alice.profile.loop_guard, bob.profile.loop_guard), (Some(false), None));
    assert_eq!(alice.profile.storm.to_string(), "multicast=4,unknown=3");
    assert_eq!(bob.who, Who::Certificate("bob".to_owned()));
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let config = parse("f", "").unwrap().resolve().unwrap();
    let listen = config.door.listen.unwrap();
    assert_eq!((config.switch.ageout.as_secs(), config.switch.fdb_limit), (300, 8192));
    assert_eq!((listen.host, listen.port, listen.path.as_str()), (None, None, "/"));
    assert!(listen.offload);
    assert_eq!(config.door.control.tcp, None);
}

/// The lists of keys here follow the structs there.
#[test]
fn keys_are_those_of_the_structs() {
    fn properties<T: schemars::JsonSchema>() -> Vec<String> {
        let schema = schemars::schema_for!(T);
        let properties = schema.get("properties").and_then(|p| p.as_object()).unwrap();
        let mut keys: Vec<_> = properties.keys().cloned().collect();
        keys.sort();
        keys
    }
    let sorted = |keys: &[&str]| {
        let mut keys: Vec<_> = keys.iter().map(|key| (*key).to_owned()).collect();
        keys.sort();
        keys
    };
    assert_eq!(sorted(PORT), properties::<PortSpec>());
    assert_eq!(sorted(OPTIONS), properties::<LinkOptions>());
}

/// What is commented out there can be said as it stands, and nothing that can be said is left out.
#[test]
fn the_sample_has_every_key() {
    let sample = include_str!("../../systemd/etherws.toml");
    let is_setting = |text: &&str| text.starts_with(|c: char| c == '[' || c.is_ascii_lowercase());
    let lines: Vec<_> =
        sample.lines().map(|line| line.strip_prefix('#').filter(is_setting).unwrap_or(line)).collect();
    parse("sample", &lines.join("\n")).unwrap();
    for (table, keys) in [
        ("[switch]", SWITCH),
        ("[listen]", LISTEN),
        ("[control]", &["sock"]),
        ("[control.tcp]", TCP),
        ("[metrics]", METRICS),
        ("[limits]", limits::KEYS),
        ("[sandbox]", SANDBOX),
        ("[[port]]", PORT),
        ("[port.options]", OPTIONS),
        ("[[user]]", USER),
    ] {
        let mut here = false;
        let mut words = std::collections::BTreeSet::new();
        for line in &lines {
            here = if line.starts_with('[') { *line == table } else { here };
            if here {
                words.extend(line.split(|c: char| !c.is_ascii_lowercase() && c != '_'));
            }
        }
        for key in keys.iter().filter(|key| **key != "options") {
            assert!(words.contains(key), "{key} of {table}");
        }
    }
}

#[test]
fn mistakes_are_told_with_place_key_and_hint() {
    let tap = "[[port]]\ntype='tap'\ntarget='t'\n";
    for (text, wanted) in [
        ("[swich]", "f:1:2: swich: unknown key; did you mean \"switch\"?"),
        ("[switch]\nage_out = 3", "f:2:1: switch.age_out: unknown key; did you mean \"ageout\"?"),
        ("[listen]\nzzz = 3", "f:2:1: listen.zzz: unknown key; valid keys here: enabled, host"),
        ("[listen]\nport = \"80\"", "f:2:8: listen.port: invalid type: string \"80\", expected u16"),
        ("[listen]\nport = 65536", "f:2:8: listen.port: "),
        (
            "[listen]\ntrusted_proxy = ['10.0.0.0/8', 'x']",
            "f:2:32: listen.trusted_proxy: \"x\" is not a network",
        ),
        ("[control.tcp]\nprt = 1", "f:2:1: control.tcp.prt: unknown key; did you mean \"port\"?"),
        ("listen = 3", "f:1:10: listen: expected a table, [listen], found integer"),
        ("[port]\ntype='tap'\ntarget='t'", "port: expected tables; write [[port]]"),
        ("[[port]]\ntype='tap'", "f:1:1: port.target: missing"),
        (
            "[[port]]\ntype='tab'\ntarget='t'",
            "f:2:6: port.type: unknown variant `tab`, expected one of `tap`",
        ),
        ("[[port]]\ntype='server'\ntarget='t'", "f:2:1: port.type: a server port comes from"),
        (&format!("{tap}access = 4095"), "port.access: invalid value: integer `4095`, expected a VID"),
        (&format!("{tap}trunk = '5-1'"), "f:4:9: port.trunk: VID range \"5-1\" runs backwards"),
        (&format!("{tap}access = 1\ntrunk = '2'"), "f:4:1: port.access: access and trunk exclude each other"),
        (&format!("{tap}native = 1"), "f:4:1: port.native: only with trunk"),
        (&format!("{tap}mtu = 575"), "f:4:1: port.mtu: 575 is out of range"),
        (&format!("{tap}mac = '01:00:00:00:00:00'"), "f:4:1: port.mac: 01:00:00:00:00:00 is a group address"),
        (
            &format!("{tap}address = ['10.0.0.1']"),
            "f:4:12: port.address: \"10.0.0.1\" is not an address with",
        ),
        (
            &format!("{tap}connections = 4"),
            "f:4:1: port.connections: unknown key; it stands in options: options = { connections = ... }",
        ),
        (&format!("{tap}options = {{ user = 'u' }}"), "f:4:1: port.options: not for a tap port"),
        (
            &format!("{tap}options = {{ pass = 'u' }}"),
            "port.options.pass: unknown key; did you mean \"passwd\"?",
        ),
        (&format!("{tap}{tap}"), "f:6:1: port.target: t is another port's target already"),
        (
            &format!("{tap}name='a'\n[[port]]\ntype='tap'\ntarget='u'\nname='a'"),
            "f:8:1: port.name: \"a\" is another",
        ),
        (&format!("{tap}name='7'"), "f:4:1: port.name: \"7\" could be taken for a port number"),
        ("[[port]]\ntype='tap'\ntarget='a%d'", "f:3:1: port.target: device name \"a%d\" has"),
        ("[[port]]\ntype='tap'\ntarget='../x'", "f:3:1: port.target: device name \"../x\" has"),
        (
            "[[port]]\ntype='tap'\ntarget='sixteen-bytes-xx'",
            "f:3:1: port.target: device name \"sixteen-bytes-xx\" is longer",
        ),
        (
            "[[port]]\ntype='client'\ntarget='http://x'",
            "f:3:1: port.target: URL \"http://x\": must start with ws://",
        ),
        ("[[user]]\nport = 'x'", "f:1:1: user.user: expected exactly one of user, token and certificate"),
        ("[[user]]\nuser = 'x'\ntoken = 'y'", "f:3:1: user.token: expected exactly one of"),
        ("[[user]]\nuser='x'\n[[user]]\nuser='x'", "f:4:1: user.user: has a [[user]] table already"),
        ("[[user]]\nuser='x'\nlinks=0", "f:3:1: user.links: 0 links lets nobody in"),
        ("[[user]]\nuser='x'\nrate=-1", "user.rate: invalid value"),
        ("[[user]]\nuser='x'\npace=0", "f:3:1: user.pace: 0 bits a second let nothing out"),
        (&format!("{tap}pace=8000"), "f:4:1: port.pace: not for a tap port"),
        (&format!("{tap}rate=0"), "f:4:1: port.rate: 0 bits a second"),
        (&format!("{tap}macs=['01:00:00:00:00:01']"), "f:4:1: port.macs: 01:00:00:00:00:01 cannot be"),
        (&format!("{tap}ethertypes=['ip']"), "f:4:13: port.ethertypes: \"ip\" is no EtherType"),
        (&format!("{tap}storm='on'"), "port.storm: \"on\" is no storm limit"),
        (&format!("{tap}storm={{broadcast=0}}"), "f:4:1: port.storm: broadcast: 0 frames a second"),
        (&format!("{tap}storm={{all=1}}"), "port.storm: unknown field `all`"),
        (&format!("{tap}max_macs=0"), "f:4:1: port.max_macs: 0 stations"),
        ("a = ", "f:1:5: "),
    ] {
        let errors = parse("f", text).unwrap_err();
        assert!(errors.iter().any(|e| e.contains(wanted)), "{text}\n  wanted: {wanted}\n  got: {errors:#?}");
    }
}

#[test]
fn every_mistake_is_found_at_once_in_order() {
    let errors =
        parse("f", "[listen]\nprt = 1\npath = 3\n[[port]]\ntype='tap'\n[switch]\nageout='x'").unwrap_err();
    let lines: Vec<_> = errors.iter().map(|e| e.split(':').nth(1).unwrap()).collect();
    assert_eq!(lines, ["2", "3", "4", "7"], "{errors:#?}");
}

#[test]
fn mistakes_of_the_whole_name_the_line_or_the_flag() {
    let resolve = |text: &str| parse("f", text).unwrap().resolve().unwrap_err();
    for (text, wanted) in [
        ("[listen]\nsslkey = 'k'", "f:2:1: listen.sslkey: given without sslcert"),
        ("[switch]\nageout = 0", "f:2:1: switch.ageout: 0 is out of range"),
        ("[listen]\npath = 'x'", "f:2:1: listen.path: \"x\" does not start with '/'"),
        ("[control.tcp]\nhost='0.0.0.0'\nanonymous=true", "f:3:1: control.tcp.anonymous: only on loopback"),
        (
            "[listen]\nhost='127.0.0.1'\nport=1\npath='/ctl'\n[control.tcp]\nport=1",
            "f:6:1: control.tcp.port: 127",
        ),
    ] {
        let problems = resolve(text);
        assert!(problems[0].to_string().starts_with(wanted) && !problems[0].is_usage(), "{problems:?}");
    }
}

#[test]
fn flags_override_the_file() {
    let flags = Layer { ageout: Some(5), host: Some("h".into()), enabled: Some(true), ..Layer::default() };
    let config = flags.over(parse("f", "[switch]\nageout=9\nthreads=1\n[listen]\nenabled=false").unwrap());
    let config = config.resolve().unwrap();
    assert_eq!((config.switch.ageout.as_secs(), config.switch.threads), (5, 1));
    assert_eq!(config.door.listen.unwrap().host.as_deref(), Some("h"));
}

#[test]
fn unreadable_files_are_named() {
    let text = "[listen]\nhtpasswd='/nonexistent/h'\n[[port]]\ntype='client'\ntarget='wss://u:secret@h/'\n\
                options={cacerts='/nonexistent/ca'}";
    let wrong = parse("f", text).unwrap().unreadable_files();
    assert_eq!(wrong.len(), 2, "{wrong:?}");
    assert!(wrong[0].starts_with("f:2:1: listen.htpasswd: /nonexistent/h: "), "{wrong:?}");
    assert!(wrong[1].contains("/nonexistent/ca") && !wrong[1].contains("secret"), "{wrong:?}");
}
