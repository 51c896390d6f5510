//! A process of its own, because it runs out of descriptors on purpose.

use std::fs::File;
use std::io::{Read, Seek};
use std::sync::Arc;
use std::time::Duration;

use etherws::control::http::{ControlSettings, Door, DoorSettings, Limits, ListenSettings};
use jsonrpsee::RpcModule;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

#[tokio::test]
async fn bad_69_accepting_pauses_without_descriptors_and_goes_on() -> Result<(), Box<dyn std::error::Error>> {
    let sock = std::env::temp_dir().join(format!("etherws-door69-{}.sock", std::process::id()));
    let host = Some("127.0.0.1".to_owned());
    let listen = Some(ListenSettings { host, port: Some(0), ..ListenSettings::default() });
    let control = ControlSettings { sock, tcp: None };
    let door = Door::open(
        DoorSettings { listen, control, metrics: None, users: Vec::new(), limits: Limits::default() },
        Vec::new(),
    )
    .await?;
    door.serve_with(Arc::new(|_| {}), RpcModule::new(()).into());
    let address = door.local_addrs()[0].1;

    let mut stat = File::open("/proc/thread-self/stat")?;
    let limit = std::process::Command::new("prlimit")
        .args(["--pid", &std::process::id().to_string(), "--nofile=64"])
        .status()?;
    assert!(limit.success());
    let mut hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    // One for the client's end; nothing is left for ours.
    hoard.pop();
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await?;
    let mut reply = Vec::new();
    let early = timeout(Duration::from_millis(300), stream.read_to_end(&mut reply)).await;
    assert!(early.is_err(), "answered without a descriptor?");
    let used = cpu(&mut stat)?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let ticks = cpu(&mut stat)? - used;
    assert!(ticks < 20, "{ticks} ticks of CPU spent on waiting for a descriptor");

    drop(hoard);
    timeout(Duration::from_secs(30), stream.read_to_end(&mut reply)).await??;
    assert!(reply.starts_with(b"HTTP/1.1 426 "), "{:?}", String::from_utf8_lossy(&reply));
    Ok(())
}

/// User and system time of this thread, in ticks (10 ms).
fn cpu(stat: &mut File) -> Result<u64, Box<dyn std::error::Error>> {
    let mut text = String::new();
    stat.rewind()?;
    stat.read_to_string(&mut text)?;
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}
