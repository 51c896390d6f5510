//! Who may connect, and to whom: certificates, passwords, tokens, profiles.

mod lab;

use lab::servers::Ca;
use lab::switch::TwoHosts;
use lab::{Host, SOON, Switch, sh, wait_until, ws};

/// B serves wss with the certificate that `make` issues for its address.
fn wss<'h>(hosts: &'h TwoHosts, cert: &lab::servers::Pem, more: &[&str]) -> (Switch<'h>, Switch<'h>, String) {
    let mut args = vec!["--sslcert", &cert.cert, "--sslkey", &cert.key];
    args.extend(more);
    let b = Switch::start(&hosts.b, &args);
    let a = Switch::start(&hosts.a, &["--no-listen"]);
    (a, b, format!("wss://{}/", hosts.link.b))
}

#[test]
fn a_private_authority_is_trusted_where_it_is_named_and_nowhere_else() {
    let hosts = TwoHosts::new();
    let ca = Ca::new("lab");
    let cert = ca.server(&hosts.b, "server", &[&hosts.link.b.to_string()]);
    let (a, b, url) = wss(&hosts, &cert, &[]);
    let ca_file = hosts.a.file("ca.pem", &ca.pem);
    let other = hosts.a.file("other.pem", Ca::new("other").pem);

    let up = a.dials(&url, &["--cacerts", &ca_file]);
    assert!(up["tls"].as_str().is_some_and(|tls| tls.contains("1.3")), "{up}");
    a.dials_in_vain(&url, &["--cacerts", &other], &["certificate", "issuer"]);
    a.dials_in_vain(&url, &[], &["certificate", "issuer"]); // the system's roots know nothing of it
    let insecure = a.dials(&url, &["--insecure"]);
    assert_eq!(insecure["state"], "up");
    assert!(a.process.log().to_lowercase().contains("insecure"), "--insecure is loud");

    // Frames pass over TLS.
    a.ctl_ok(&["addport", "tap", "t0", "--address", "10.1.0.1/24"]);
    b.ctl_ok(&["addport", "tap", "t0", "--address", "10.1.0.2/24"]);
    a.ctl_ok(&["addport", "client", &url, "--cacerts", &ca_file, "--name", "link"]);
    hosts.a.ping("10.1.0.2");
    lab::servers::bulk_arrives_intact(&hosts.a, &hosts.b, "10.1.0.2", 2 << 20);
    lab::servers::bulk_arrives_intact(&hosts.b, &hosts.a, "10.1.0.1", 2 << 20);
}

#[test]
fn the_wrong_name_is_refused() {
    let hosts = TwoHosts::new();
    let ca = Ca::new("lab");
    let cert = ca.server(&hosts.b, "server", &["other.example", "192.0.2.77"]);
    let (a, _b, url) = wss(&hosts, &cert, &[]);
    let ca_file = hosts.a.file("ca.pem", &ca.pem);
    a.dials_in_vain(&url, &["--cacerts", &ca_file], &["is not for"]);
}

#[test]
fn bad_64_an_expired_certificate_is_refused() {
    let hosts = TwoHosts::new();
    let ca = Ca::new("lab");
    let cert = ca.expired(&hosts.b, "server", &[&hosts.link.b.to_string()]);
    let (a, _b, url) = wss(&hosts, &cert, &[]);
    a.dials_in_vain(&url, &["--cacerts", &hosts.a.file("ca.pem", &ca.pem)], &["expired"]);
}

/// What users of 1.3 have: one certificate that is its own authority, made by the line in the README.
#[test]
fn the_certificate_of_the_readme_is_a_pin() {
    let host = Host::new();
    let (cert, key) = readme_certificate(&host, "localhost");
    let switch = Switch::start(&host, &["--sslcert", &cert, "--sslkey", &key]);
    switch.dials("wss://localhost/", &["--cacerts", &cert]);
    // The pin is that certificate, not the name in it.
    let elsewhere = Host::new();
    let (other, _) = readme_certificate(&elsewhere, "localhost");
    switch.dials_in_vain("wss://localhost/", &["--cacerts", &other], &["certificate", "pin"]);
    // The name still counts.
    switch.dials_in_vain("wss://127.0.0.1/", &["--cacerts", &cert], &["is not for"]);
}

#[test]
fn a_certificate_with_a_common_name_alone_is_a_pin_too() {
    let host = Host::new();
    let (cert, key) = (host.dir().join("cn.pem"), host.dir().join("cn.key"));
    let (cert, key) = (cert.to_str().expect("path"), key.to_str().expect("path"));
    sh(&[
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "30",
        "-subj",
        "/CN=localhost",
        "-keyout",
        key,
        "-out",
        cert,
    ]);
    let switch = Switch::start(&host, &["--sslcert", cert, "--sslkey", key]);
    switch.dials("wss://localhost/", &["--cacerts", cert]);
    switch.dials_in_vain("wss://127.0.0.1/", &["--cacerts", cert], &["is not for"]);
}

#[test]
fn a_client_certificate_opens_the_door_and_names_the_user() {
    let hosts = TwoHosts::new();
    let (ca, stranger) = (Ca::new("lab"), Ca::new("stranger"));
    let cert = ca.server(&hosts.b, "server", &[&hosts.link.b.to_string()]);
    let client_ca = hosts.b.file("client-ca.pem", &ca.pem);
    let (a, b, url) = wss(&hosts, &cert, &["--sslclientca", &client_ca]);
    let ca_file = hosts.a.file("ca.pem", &ca.pem);
    let (mine, foreign) =
        (ca.client(&hosts.a, "mine", "alice"), stranger.client(&hosts.a, "foreign", "alice"));

    a.ctl_ok(&[
        "addport",
        "client",
        &url,
        "--cacerts",
        &ca_file,
        "--cert",
        &mine.cert,
        "--key",
        &mine.key,
        "--name",
        "m",
    ]);
    a.wait_state("m", "up");
    assert_eq!(b.wait_server_port()["user"], "alice");
    a.ctl_ok(&["delport", "m"]);

    let with = |pem: &lab::servers::Pem| {
        ["--cacerts", &ca_file, "--cert", &pem.cert, "--key", &pem.key].map(str::to_owned)
    };
    let options = with(&foreign);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    a.dials_in_vain(&url, &options, &["certificate", "alert", "ca"]);
    a.dials_in_vain(&url, &["--cacerts", &ca_file], &["certificate", "alert"]);
}

/// Each format made by the tool that people make it with.
#[test]
fn each_htpasswd_format_lets_its_user_in() {
    let hosts = TwoHosts::new();
    let password = "correct horse: battery";
    let htpasswd =
        |user: &str, option: &str| sh(&["htpasswd", "-nb", option, user, password]).trim().to_owned();
    let openssl =
        |user: &str, option: &str| format!("{user}:{}", sh(&["openssl", "passwd", option, password]).trim());
    let lines = [
        htpasswd("bcrypt", "-B"),
        htpasswd("apr1", "-m"),
        htpasswd("sha", "-s"),
        htpasswd("sha256", "-2"),
        htpasswd("sha512", "-5"),
        openssl("o256", "-5"),
        openssl("o512", "-6"),
        openssl("oapr1", "-apr1"),
    ];
    let file = hosts.b.file("htpasswd", format!("# users\n{}\n", lines.join("\n")));
    let b = Switch::start(&hosts.b, &["--htpasswd", &file]);
    let a = Switch::start(&hosts.a, &["--no-listen"]);
    let url = format!("ws://{}/", hosts.link.b);
    for line in &lines {
        let user = line.split(':').next().expect("user");
        a.ctl_ok(&["addport", "client", &url, "--user", user, "--passwd", password, "--name", user]);
        a.wait_state(user, "up");
        wait_until(&format!("B shows {user}"), SOON, || {
            b.entries("listPort").iter().any(|entry| entry["user"] == user)
        });
        a.ctl_ok(&["delport", user]);
        a.dials_in_vain(&url, &["--user", user, "--passwd", "wrong"], &["401"]);
    }
    let secret = hosts.a.file("passwd", format!("{password}\nsecond line\n"));
    a.dials(&url, &["--user", "bcrypt", "--passwd-file", &secret]);
    a.dials_in_vain(&url, &[], &["401"]);
    a.dials_in_vain(&url, &["--user", "nobody", "--passwd", password], &["401"]);
    for text in [a.ctl_ok(&["--json", "listport"]), a.process.log(), b.process.log()] {
        assert!(!text.contains("battery"), "a password got out: {text}");
    }
}

#[test]
fn bad_62_the_password_file_is_read_again_and_the_last_good_one_kept() {
    let hosts = TwoHosts::new();
    let line = |user: &str| sh(&["htpasswd", "-nbs", user, "pw"]);
    let file = hosts.b.file("htpasswd", line("one"));
    let b = Switch::start(&hosts.b, &["--htpasswd", &file]);
    let addr = format!("{}:80", hosts.link.b);
    let login = |user: &str| {
        let basic = sh(&["sh", "-c", &format!("printf %s {user}:pw | base64")]);
        let headers = format!("{}Authorization: Basic {}\r\n", ws::UPGRADE, basic.trim());
        ws::get(&hosts.a, &addr, "/", &headers).0.status
    };
    assert_eq!((login("one"), login("two")), (101, 401));
    std::fs::write(hosts.b.dir().join("new"), line("two")).expect("write");
    std::fs::rename(hosts.b.dir().join("new"), &file).expect("rename");
    wait_until("the new file counts", SOON, || login("two") == 101 && login("one") == 401);
    std::fs::write(&file, "").expect("truncate");
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(login("nobody"), 401, "an empty file opens nothing\n{}", b.process.log());
}

#[test]
fn tokens_open_by_header_and_by_query() {
    let hosts = TwoHosts::new();
    let token = "0123456789abcdef0123456789abcdef";
    let file = hosts.b.file("tokens", format!("# browsers\nkiosk {token}\n"));
    let b = Switch::start(&hosts.b, &["--tokens", &file, "--debug"]);
    let a = Switch::start(&hosts.a, &["--no-listen"]);
    let addr = format!("{}:80", hosts.link.b);
    let url = format!("ws://{}/", hosts.link.b);
    a.ctl_ok(&["addport", "client", &url, "--token", token, "--name", "t"]);
    a.wait_state("t", "up");
    assert_eq!(b.wait_server_port()["user"], "kiosk");
    let (answer, _ws) = ws::get(&hosts.a, &addr, &format!("/?token={token}"), ws::UPGRADE);
    assert_eq!(answer.status, 101, "{}", answer.head);
    for path in ["/?token=wrong", "/?token=", "/"] {
        assert_eq!(ws::get(&hosts.a, &addr, path, ws::UPGRADE).0.status, 401, "{path}");
    }
    assert!(!b.process.log().contains(token), "the token is in the log");
}

#[test]
fn a_profile_shapes_the_link_of_its_user() {
    let hosts = TwoHosts::new();
    let htpasswd = hosts.b.file("htpasswd", sh(&["htpasswd", "-nbs", "bob", "pw"]));
    let config = hosts.b.file(
        "etherws.toml",
        format!(
            "[listen]\nhtpasswd = \"{htpasswd}\"\n[[user]]\nuser = \"bob\"\nport = \"office\"\naccess = 10\n\
             isolated = true\nlinks = 1\n"
        ),
    );
    let b = Switch::start(&hosts.b, &["--config", &config]);
    let a = Switch::start(&hosts.a, &["--no-listen"]);
    let url = format!("ws://{}/", hosts.link.b);
    a.ctl_ok(&["addport", "client", &url, "--user", "bob", "--passwd", "pw", "--name", "first"]);
    a.wait_state("first", "up");
    b.wait_server_port();
    let office = b.port("office");
    assert_eq!((&office["user"], &office["vlan"]), (&"bob".into(), &"access 10".into()), "{office}");
    assert_eq!(office["isolated"], true);
    // A second session replaces the first.
    a.ctl_ok(&["delport", "first"]);
    let addr = format!("{}:80", hosts.link.b);
    let headers = format!("{}Authorization: Basic Ym9iOnB3\r\n", ws::UPGRADE); // bob:pw
    let (answer, mut one) = ws::get(&hosts.a, &addr, "/", &headers);
    assert_eq!(answer.status, 101);
    let (answer, mut two) = ws::get(&hosts.a, &addr, "/", &headers);
    assert_eq!(answer.status, 101);
    assert!(one.ends(SOON), "the stale session is closed");
    two.send(ws::PING, b"still here");
    assert_eq!(two.wait(ws::PONG, SOON).as_deref(), Some(&b"still here"[..]));
    let links = b.entries("listPort").iter().filter(|entry| entry["type"] == "server").count();
    assert_eq!(links, 1);
}

/// Runs the `openssl req -x509` line of the README with its host name replaced; (certificate, key).
fn readme_certificate(host: &Host, name: &str) -> (String, String) {
    let readme =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("README.md");
    let text = readme.replace("\\\n", " ");
    let line =
        text.lines().find(|line| line.contains("openssl req -x509")).expect("the README's openssl line");
    let line = line.trim().trim_start_matches(['$', '#', ' ']);
    let after = |mark: &str| {
        let rest = &line[line.find(mark)? + mark.len()..];
        Some(rest.trim().split([' ', ',', '"', '\'', '/']).next().unwrap_or_default().to_owned())
    };
    let old = after("/CN=").or_else(|| after("DNS:")).expect("a name in the README's line");
    let script = format!("cd {} && {}", host.dir().display(), line.replace(&old, name));
    sh(&["sh", "-c", &script]);
    let file = |option: &str| {
        let mut words = line.split_whitespace().skip_while(|word| *word != option);
        let path = words.nth(1).unwrap_or_else(|| panic!("{option} in the README's line"));
        host.dir().join(path).to_str().expect("path").to_owned()
    };
    (file("-out"), file("-keyout"))
}
