//! Looking at frames: the subscription to a capture, traces, pings.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonrpsee::{PendingSubscriptionSink, SubscriptionMessage, SubscriptionSink};
use tokio::time::{Instant, sleep, timeout};

use super::api::seeing::{
    Captured, MAX_PING_MS, Packet, PingPort, PingStatus, SNAPLEN, SubscribeCapture, TraceFrame, Traced, Way,
};
use super::api::{EtherType, check};
use super::prof::names;
use super::rpc::Reply;
use super::rpc::{invalid, refused};
use crate::frame::bpf::Program;
use crate::frame::{MAX_FRAME, MIN_FRAME};
use crate::port::Ports;
use crate::port::capture::{self, Record, Running, Wanted};
use crate::port::ports::{Example, Whose};

/// `subscribeCapture`: until the viewer goes.
pub async fn subscribe(ports: Arc<Ports>, subscribe: SubscribeCapture, pending: PendingSubscriptionSink) {
    let running = match begin(&ports, subscribe) {
        Ok(running) => running,
        Err(error) => return pending.reject(error).await,
    };
    let Ok(sink) = pending.accept().await else { return };
    Viewer { ports, running, sink, known: BTreeSet::new(), told: None }.show().await;
}

fn begin(ports: &Ports, subscribe: SubscribeCapture) -> Reply<Running> {
    let SubscribeCapture { port, filter, snaplen } = subscribe;
    let port = port.map(|port| ports.number(&port)).transpose().map_err(refused)?;
    let filter = filter.map(|filter| Program::checked(&filter)).transpose();
    let filter = filter.map_err(|refusal| invalid(format!("filter: {refusal}")))?;
    let snaplen = snaplen.unwrap_or(SNAPLEN);
    if !(MIN_FRAME as u32..=SNAPLEN).contains(&snaplen) {
        return Err(invalid(format!("snaplen: {snaplen} is not {MIN_FRAME} to {SNAPLEN}")));
    }
    ports.capture(Wanted { port, filter, snaplen }).map_err(refused)
}

struct Viewer {
    ports: Arc<Ports>,
    running: Running,
    sink: SubscriptionSink,
    /// Ports that it was told of.
    known: BTreeSet<u32>,
    /// When it was told something last.
    told: Option<Instant>,
}

impl Viewer {
    async fn show(mut self) {
        while !self.sink.is_closed() {
            let records = self.running.read();
            let idle = records.is_empty();
            if idle && self.told.is_none_or(|told| told.elapsed() >= SIGN_OF_LIFE) && !self.tell(&[]).await {
                return;
            }
            let mut rest = &records[..];
            while !rest.is_empty() {
                let (some, more) = rest.split_at(portion(rest));
                if !self.tell(some).await {
                    return;
                }
                rest = more;
            }
            tokio::select! {
                () = self.sink.closed() => return,
                () = sleep(if idle { IDLE } else { BUSY }) => {}
            }
        }
    }

    /// `false`: nobody is there any more.
    async fn tell(&mut self, records: &[Record]) -> bool {
        let missing = |record: &Record| !self.known.contains(&record.seen.port);
        let mut new = Vec::new();
        if self.told.is_none() || records.iter().any(missing) {
            new = names(&self.ports);
            // One that is gone already has no name any more.
            new.retain(|port| self.known.insert(port.port));
        }
        let packets = records.iter().map(packet).collect();
        let captured = Captured { ports: new, packets, lost: self.running.lost() };
        let Ok(message) = serde_json::value::to_raw_value(&captured) else { return false };
        self.told = Some(Instant::now());
        let sent = timeout(PATIENCE, self.sink.send(SubscriptionMessage::from(message))).await;
        matches!(sent, Ok(Ok(())))
    }
}

/// How many of the first records go together.
fn portion(records: &[Record]) -> usize {
    let mut bytes = 0;
    let fits = |record: &&Record| {
        bytes += OVERHEAD + record.bytes.len();
        bytes <= PORTION
    };
    records.iter().take_while(fits).count().max(1)
}

fn packet(record: &Record) -> Packet {
    let seen = &record.seen;
    let is_super = seen.gso_size != 0;
    Packet {
        unix_ns: record.unix_ns,
        port: seen.port,
        way: match seen.way {
            capture::Way::In => Way::In,
            capture::Way::Out => Way::Out,
        },
        len: record.len,
        data: STANDARD.encode(&record.bytes),
        drop: seen.dropped.map(|reason| reason.name().to_owned()),
        gso_size: is_super.then_some(seen.gso_size),
        frames: (seen.frames > 1).then_some(seen.frames),
    }
}

/// `traceFrame`
pub fn trace(ports: &Ports, ask: TraceFrame) -> Reply<Traced> {
    let example = match (ask.frame, ask.dst) {
        (Some(_), Some(_)) => return Err(invalid("dst: a frame that is given has its own".to_owned())),
        (Some(hex), None) => Example::Whole(bytes_of(&hex).map_err(|why| invalid(format!("frame: {why}")))?),
        (None, Some(dst)) => {
            let ethertype = ask.ethertype.unwrap_or(EtherType(0x0800));
            Example::Short { src: ask.src, dst, vid: ask.vid.unwrap_or(0), ethertype }
        }
        (None, None) => return Err(invalid("frame: give a frame, or dst".to_owned())),
    };
    ports.trace(ask.port.as_ref(), example).map_err(refused)
}

fn bytes_of(hex: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u32> = hex
        .chars()
        .filter(|c| !c.is_whitespace() && *c != ':')
        .map(|c| c.to_digit(16).ok_or_else(|| format!("{c:?} is no hexadecimal digit")))
        .collect::<Result<_, _>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    match rest {
        [] if pairs.len() > MAX_FRAME + 1 => Err(format!("longer than any frame ({MAX_FRAME} bytes)")),
        [] => Ok(pairs.iter().map(|[high, low]| (high << 4 | low) as u8).collect()),
        _ => Err("half a byte at its end".to_owned()),
    }
}

/// `pingPort`
pub async fn ping(ports: &Ports, ask: PingPort) -> Reply<PingStatus> {
    let limit = ask.timeout_ms.unwrap_or(1_000);
    if !(1..=MAX_PING_MS).contains(&limit) {
        return Err(invalid(format!("timeout_ms: {limit} is not 1 to {MAX_PING_MS}")));
    }
    ask.vid.map_or(Ok(()), check::check_vid).map_err(invalid)?;
    let whose = match (ask.port, ask.mac) {
        (Some(port), None) => Whose::Port(port),
        (None, Some(mac)) => Whose::Station(mac, ask.vid),
        _ => return Err(invalid("port: give a port, or the mac of a station".to_owned())),
    };
    ports.ping_port(&whose, Duration::from_millis(limit.into())).await.map_err(refused)
}

/// Of frames in a message; as base64 it is a third more.
const PORTION: usize = 256 << 10;
/// What a frame's other fields are in JSON, about.
const OVERHEAD: usize = 120;
/// Between looks at the lanes.
const BUSY: Duration = Duration::from_millis(5);
const IDLE: Duration = Duration::from_millis(50);
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// Whoever reads nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use jsonrpsee::Methods;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    use serde_json::{Value, json};

    use super::*;
    use crate::control::api;
    use crate::control::rpc::{Hooks, methods};
    use crate::port::capture::{MAX_CAPTURES, Seen, show};
    use crate::port::ports::SwitchSettings;

    fn served() -> (Arc<Ports>, Methods) {
        let settings = SwitchSettings { fdb_limit: 16, ..SwitchSettings::default() };
        let hooks = Hooks {
            save: Box::new(|_| async { Err(String::new()) }.boxed()),
            reload: Box::new(|| async { Err(String::new()) }.boxed()),
            diagnose: Box::new(|| async { Ok(Default::default()) }.boxed()),
        };
        let ports = Ports::start(settings).unwrap();
        (ports.clone(), methods(ports, hooks))
    }

    /// The answer, and what then comes.
    async fn subscribe(
        methods: &Methods,
        params: Value,
    ) -> (Value, tokio::sync::mpsc::Receiver<Box<serde_json::value::RawValue>>) {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": api::seeing::SUBSCRIBE, "params": params})
            .to_string();
        let (reply, told) = methods.raw_json_request(&request, 8).await.unwrap();
        (serde_json::from_str(reply.get()).unwrap(), told)
    }

    #[tokio::test]
    async fn a_thousand_random_programs_are_refused_or_harmless() {
        let (ports, methods) = served();
        let mut rng = StdRng::seed_from_u64(7);
        let codes =
            [0x20, 0x28, 0x30, 0x15, 0x25, 0x06, 0x54, 0x34, 0x3c, 0x61, 0x02, 0x05, 0xb1, 0x48, 0x74];
        let (mut refused, mut taken) = (0, 0);
        for _ in 0..1_000 {
            let (len, last) = (rng.random_range(0..12), rng.random());
            let program: Vec<[u32; 4]> = (0..len)
                .map(|_| {
                    let code = match rng.random_range(0..60) {
                        0 => rng.random(),
                        n => codes[n % codes.len()],
                    };
                    [code, rng.random_range(0..4), rng.random_range(0..4), rng.random_range(0..70)]
                })
                .chain([[6, 0, 0, last]])
                .collect();
            let (reply, told) = subscribe(&methods, json!({"filter": program})).await;
            match reply["error"]["data"].as_str() {
                Some(why) => {
                    assert!(why.starts_with("filter: instruction "), "{reply}");
                    refused += 1;
                }
                None => {
                    let watch = ports.captures().watch().unwrap();
                    let frame: Vec<u8> = (0..rng.random_range(0..80)).map(|_| rng.random()).collect();
                    show(&watch, Seen::new(1, capture::Way::In, None, frame.len()), &[&frame]);
                    taken += 1;
                }
            }
            drop(told);
            // A capture ends when its viewer has gone, which its task finds out.
            while ports.captures().watch().is_some() {
                tokio::task::yield_now().await;
            }
        }
        assert!(refused > 100 && taken > 100, "{refused} refused, {taken} taken");
    }

    #[tokio::test]
    async fn what_cannot_be_is_refused_by_name() {
        let (_ports, methods) = served();
        for (params, words) in [
            (json!({"filter": []}), "filter: a program of 0 instructions"),
            (json!({"filter": vec![[6, 0, 0, 0]; 4097]}), "filter: a program of 4097"),
            (json!({"filter": [[6, 0, 0]]}), "filter"),
            (json!({"filter": [[6, 0, 0, -1]]}), "filter"),
            (json!({"snaplen": 13}), "snaplen: 13 is not 14 to 262144"),
            (json!({"snaplen": 262_145}), "snaplen"),
            (json!({"port": 7}), "no port 7"),
            (json!({"prot": 7}), "did you mean `port`"),
        ] {
            let (reply, _) = subscribe(&methods, params.clone()).await;
            assert_eq!(reply["error"]["code"], api::INVALID_PARAMS, "{params}: {reply}");
            assert!(reply["error"]["data"].as_str().unwrap().contains(words), "{params}: {reply}");
        }
        let mut all = Vec::new();
        for _ in 0..MAX_CAPTURES {
            let (reply, told) = subscribe(&methods, json!({})).await;
            assert!(reply["result"].is_number() || reply["result"].is_string(), "{reply}");
            all.push(told);
        }
        assert_eq!(subscribe(&methods, json!({})).await.0["error"]["code"], api::FAILED);
    }

    #[tokio::test]
    async fn frames_come_in_portions_and_in_order() {
        let (ports, methods) = served();
        let (_, mut told) = subscribe(&methods, json!({"snaplen": 20_000})).await;
        let watch = ports.captures().watch().unwrap();
        for n in 0..100_u8 {
            let seen = Seen { gso_size: 1448, frames: 14, ..Seen::new(n.into(), capture::Way::Out, None, 0) };
            show(&watch, seen, &[&[n; 14], &[7; 30_000]]);
        }
        let mut packets = Vec::new();
        let mut messages = 0;
        while packets.len() < 100 {
            let message = timeout(Duration::from_secs(30), told.recv()).await.unwrap().unwrap();
            assert!(message.get().len() < 2 * PORTION, "{} bytes", message.get().len());
            let message: Value = serde_json::from_str(message.get()).unwrap();
            assert_eq!(message["method"], api::seeing::NOTIFICATION);
            let captured: Captured = serde_json::from_value(message["params"]["result"].clone()).unwrap();
            assert_eq!(captured.lost, 0);
            messages += usize::from(!captured.packets.is_empty());
            packets.extend(captured.packets);
        }
        assert!(messages > 5, "{messages}");
        assert!(packets.iter().map(|packet| packet.port).eq(0..100));
        let last = &packets[99];
        assert_eq!((last.len, last.gso_size, last.frames), (30_014, Some(1448), Some(14)));
        assert_eq!((last.way, &last.drop), (Way::Out, &None));
        assert_eq!(STANDARD.decode(&last.data).unwrap().len(), 20_000);
    }

    #[test]
    fn a_frame_in_hexadecimal_may_have_blanks_and_colons() {
        assert_eq!(bytes_of("02:5e 00\n7F"), Ok(vec![2, 0x5e, 0, 0x7f]));
        assert!(bytes_of("0").unwrap_err().contains("half"));
        assert!(bytes_of("é0").unwrap_err().contains("é"));
        assert!(bytes_of(&"00".repeat(70_000)).unwrap_err().contains("longer"));
    }
}
