//! Real servers and clients of the neighbourhood: DHCP, proxies, nginx, certificates.

use std::net::{Ipv4Addr, SocketAddr};

use super::{Host, Process, SOON, sh, wait_until};

/// dnsmasq answering DHCP (and nothing else) on `device`, leases `from`-`to` for two minutes.
pub fn dnsmasq(host: &Host, device: &str, from: &str, to: &str) -> Process {
    let leases = host.dir().join("leases");
    let process = host.spawn(
        "dnsmasq",
        &[
            "dnsmasq",
            "--no-daemon",
            "--conf-file=/dev/null",
            "--port=0",
            "--user=root",
            "--pid-file=",
            "--bind-interfaces",
            "--log-dhcp",
            "--no-ping",
            &format!("--interface={device}"),
            &format!("--dhcp-range={from},{to},2m"),
            &format!("--dhcp-leasefile={}", leases.display()),
        ],
    );
    wait_until("dnsmasq is ready", SOON, || process.log().contains("DHCP, IP range"));
    process
}

/// A DHCP client that runs on, so that it can be told to renew (SIGUSR1).
pub struct DhcpClient {
    pub process: Process,
    device: String,
}

impl DhcpClient {
    pub fn start(host: &Host, device: &str) -> Self {
        let script = host.file(
            "udhcpc.sh",
            "#!/bin/sh\necho \"event $1 $ip\"\ncase $1 in bound|renew)\n  \
             ip addr replace \"$ip/${mask:-24}\" dev \"$interface\";; esac\n",
        );
        sh(&["chmod", "+x", &script]);
        let process = host.spawn(
            "udhcpc",
            &["busybox", "udhcpc", "-f", "-R", "-t", "30", "-T", "1", "-i", device, "-s", &script],
        );
        Self { process, device: device.to_owned() }
    }

    /// The address, once there is one.
    #[track_caller]
    pub fn lease(&self) -> String {
        let mut lease = None;
        wait_until("a DHCP lease", SOON, || {
            let log = self.process.log();
            lease = log.lines().find_map(|line| line.strip_prefix("event bound ").map(str::to_owned));
            lease.is_some()
        });
        lease.expect("bound")
    }

    /// Asks for the same address once more; waits for the server's yes.
    #[track_caller]
    pub fn renew(&self) {
        let renewals = || self.process.log().matches("event renew ").count();
        let before = renewals();
        self.process.signal(nix::sys::signal::Signal::SIGUSR1);
        wait_until(&format!("the lease of {} is renewed", self.device), SOON, || renewals() > before);
    }
}

/// A line of text from one host to the other, by nc.
#[track_caller]
pub fn nc_carries_text(from: &Host, to: &Host, address: &str) {
    let text = format!("greetings from {}", from.name());
    let listener = to.spawn("nc", &["nc", "-l", "7000"]);
    wait_until(&format!("nc carries {text:?}"), SOON, || {
        let script = format!("echo '{text}' | nc -N -w 3 {address} 7000");
        from.run_for(5, &["sh", "-c", &script]);
        listener.log().contains(&text)
    });
}

/// Bytes over TCP from one host to the other, compared by checksum: many segments, large ones where
/// the devices make them.
#[track_caller]
pub fn bulk_arrives_intact(from: &Host, to: &Host, address: &str, bytes: usize) {
    let data: Vec<u8> =
        (0..bytes as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    let (source, sink) = (from.file("bulk-out", &data), to.dir().join("bulk-in"));
    let script = format!("nc -l 7001 > {}", sink.display());
    let mut listener = to.spawn("nc-bulk", &["sh", "-c", &script]);
    wait_until("the bulk receiver listens", SOON, || {
        to.ok(&["ss", "-Hltn", "sport", "=", ":7001"]).contains("7001")
    });
    let script = format!("nc -N -w 10 {address} 7001 < {source}");
    let sent = from.run_for(60, &["sh", "-c", &script]);
    assert!(sent.status.success(), "nc: {}", super::said(&sent));
    listener.wait(SOON);
    let got = std::fs::read(&sink).expect("what was received");
    assert_eq!(got.len(), data.len());
    assert!(got == data, "the bytes changed on their way");
}

/// tinyproxy on 0.0.0.0:8888, with BasicAuth when a login is given.
pub fn tinyproxy(host: &Host, login: Option<(&str, &str)>) -> Process {
    let auth = login.map(|(user, password)| format!("BasicAuth {user} {password}\n")).unwrap_or_default();
    let log = host.dir().join("tinyproxy-access.log");
    let config = format!(
        "Port 8888\nListen 0.0.0.0\nTimeout 600\nMaxClients 50\nLogLevel Connect\nLogFile \"{}\"\n{auth}",
        log.display()
    );
    let config = host.file("tinyproxy.conf", config);
    std::fs::write(&log, "").expect("log");
    let process = host.spawn("tinyproxy", &["tinyproxy", "-d", "-c", &config]);
    host.wait_port("127.0.0.1:8888");
    process
}

/// What tinyproxy was asked for.
pub fn tinyproxy_log(host: &Host) -> String {
    std::fs::read_to_string(host.dir().join("tinyproxy-access.log")).unwrap_or_default()
}

/// nginx with these `server { … }` blocks.
pub fn nginx(host: &Host, servers: &str, wait_for: SocketAddr) -> Process {
    let dir = host.dir().display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("  {kind}_temp_path {dir}/nginx-{kind};\n"))
        .collect();
    let config = format!(
        "daemon off;\nmaster_process off;\nuser root;\nworker_processes 1;\npid {dir}/nginx.pid;\n\
         error_log {dir}/nginx-error.log info;\nevents {{ worker_connections 256; }}\nhttp {{\n  \
         access_log {dir}/nginx-access.log;\n{temporary}{servers}\n}}\n"
    );
    let config = host.file("nginx.conf", config);
    let errors = format!("{dir}/nginx-error.log");
    let process = host.spawn("nginx", &["nginx", "-c", &config, "-e", &errors]);
    host.wait_port(&wait_for.to_string());
    process
}

/// A certificate and its key, as files in a host's directory.
pub struct Pem {
    pub cert: String,
    pub key: String,
}

/// A private certification authority made by rcgen.
pub struct Ca {
    params: rcgen::CertificateParams,
    key: rcgen::KeyPair,
    pub pem: String,
}

impl Ca {
    pub fn new(name: &str) -> Self {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        let key = rcgen::KeyPair::generate().expect("key");
        let pem = params.self_signed(&key).expect("CA certificate").pem();
        Self { params, key, pem }
    }

    /// A server's certificate for names and addresses, valid now.
    pub fn server(&self, host: &Host, file: &str, names: &[&str]) -> Pem {
        self.issue(host, file, names, rcgen::ExtendedKeyUsagePurpose::ServerAuth, |_| {})
    }

    /// A client's certificate with this common name.
    pub fn client(&self, host: &Host, file: &str, name: &str) -> Pem {
        self.issue(host, file, &[name], rcgen::ExtendedKeyUsagePurpose::ClientAuth, |_| {})
    }

    /// A server's certificate whose time has passed.
    pub fn expired(&self, host: &Host, file: &str, names: &[&str]) -> Pem {
        self.issue(host, file, names, rcgen::ExtendedKeyUsagePurpose::ServerAuth, |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        })
    }

    fn issue(
        &self,
        host: &Host,
        file: &str,
        names: &[&str],
        usage: rcgen::ExtendedKeyUsagePurpose,
        change: impl FnOnce(&mut rcgen::CertificateParams),
    ) -> Pem {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names.clone()).expect("names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, names[0].clone());
        params.extended_key_usages = vec![usage];
        change(&mut params);
        let key = rcgen::KeyPair::generate().expect("key");
        let issuer = rcgen::Issuer::from_params(&self.params, &self.key);
        let cert = params.signed_by(&key, &issuer).expect("certificate");
        Pem {
            cert: host.file(&format!("{file}.crt"), cert.pem()),
            key: host.file(&format!("{file}.key"), key.serialize_pem()),
        }
    }
}

/// An address and a port.
pub fn at(address: Ipv4Addr, port: u16) -> SocketAddr {
    (address, port).into()
}
