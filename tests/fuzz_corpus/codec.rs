//! WebSocket frames from a peer, whole and cut anywhere, beside a second reading of RFC 6455 (5.2 to 5.6) that knows
//! nothing of buffers.

use etherws::ws::codec::{Decoder, Event, Payload, Piece, Role, Step, encode};
use etherws::ws::header::Opcode;

/// The first byte chooses the role and the largest message, the second where the stream is cut.
pub fn run(data: &[u8]) {
    let [choice, cut, stream @ ..] = data else { return };
    let role = if choice & 1 == 0 { Role::Server } else { Role::Client };
    let limit = [125, 1_500, 65_597][usize::from(choice >> 1) % 3];
    let step = usize::from(*cut) + 1;
    let decoder = || Decoder::new(role, limit);
    let whole = decode(decoder(), stream, stream.len());
    assert_eq!(whole, decode(decoder(), stream, step), "cut every {step} bytes");
    assert_eq!(whole, read(role, limit, false, stream), "another reading");
    let as_text = decode(decoder().with_text(), stream, stream.len());
    assert_eq!(as_text, decode(decoder().with_text(), stream, step), "text, cut every {step} bytes");
    assert_eq!(as_text, read(role, limit, true, stream), "another reading of text");
    for (opcode, payload) in &whole.0 {
        if matches!(opcode, 1 | 2) {
            assert!(payload.len() <= limit);
            comes_back(role, limit, *opcode, payload);
        }
    }
}

/// Messages as (opcode, payload), and how it ended: the code of the Close that a violation asks for.
type Told = (Vec<(u8, Vec<u8>)>, Option<u16>);

fn decode(mut decoder: Decoder, stream: &[u8], step: usize) -> Told {
    let (mut told, mut buffer) = (Vec::new(), Vec::new());
    for piece in stream.chunks(step.max(1)) {
        buffer.extend_from_slice(piece);
        let mut at = 0;
        loop {
            match decoder.next(&mut buffer[at..]) {
                Err(violation) => return (told, Some(violation.close_code())),
                Ok(Step::More) => break,
                Ok(Step::Used(used, event)) => {
                    let event = event.map(|event| match event {
                        Event::Binary(payload) => (2, forwarded(payload)),
                        Event::Text(payload) => (1, payload.open().to_vec()),
                        Event::Ping(payload) => (9, payload.open().to_vec()),
                        Event::Pong(payload) => (10, payload.open().to_vec()),
                        Event::Close(code) => {
                            (8, code.map(|code| code.to_be_bytes().to_vec()).unwrap_or_default())
                        }
                    });
                    assert!(0 < used && used <= buffer.len() - at);
                    at += used;
                    told.extend(event);
                }
            }
        }
        buffer.drain(..at);
    }
    (told, None)
}

/// As the data path does it: a look at the beginning, some of which is the link's own, and the rest under its mask.
fn forwarded(mut payload: Payload<'_>) -> Vec<u8> {
    let peeked = payload.peek(22).to_vec();
    let copy = |payload: &Payload<'_>| {
        let mut copy = Vec::new();
        encode(&mut copy, Opcode::Binary, &payload.pieces(), None, &mut ());
        copy
    };
    let whole = copy(&payload);
    let (own, frame) = peeked.split_at(peeked.len().min(10));
    let payload = payload.behind(own.len());
    let behind = copy(&payload);
    let open = payload.open();
    assert!(open.starts_with(frame) && behind.ends_with(open));
    let open = [own, open].concat();
    assert!(whole.ends_with(&open));
    open
}

/// The second reading: frame by frame from the whole of it; with `text` what is none ends it at once.
fn read(role: Role, limit: usize, text: bool, mut rest: &[u8]) -> Told {
    let mut told = Vec::new();
    let mut message: Option<(u8, Vec<u8>, usize)> = None;
    loop {
        let Some(first) = rest.first() else { return (told, None) };
        let (fin, opcode) = (first & 0x80 != 0, first & 15);
        if first & 0x70 != 0 || matches!(opcode, 3..=7 | 11..) {
            return (told, Some(1002));
        }
        let Some(second) = rest.get(1) else { return (told, None) };
        let (masked, short) = (second & 0x80 != 0, usize::from(second & 127));
        let control = opcode >= 8;
        if control && (!fin || short > 125) {
            return (told, Some(1002));
        }
        let width = [0, 2, 8][usize::from(short > 125) + usize::from(short > 126)];
        let Some(bytes) = rest.get(2..2 + width) else { return (told, None) };
        let number = bytes.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        let len = if width == 0 { short as u64 } else { number };
        if width == 2 && len < 126 || width == 8 && (len < 65_536 || len >> 63 != 0) {
            return (told, Some(1002));
        }
        let head = 2 + width + if masked { 4 } else { 0 };
        if rest.len() < head {
            return (told, None);
        }
        if masked != (role == Role::Server) {
            return (told, Some(1002));
        }
        let mut before = 0;
        if !control {
            match (&message, opcode) {
                (None, 0) | (Some(_), 1 | 2) => return (told, Some(1002)),
                (Some((_, _, count)), _) if *count >= (limit / 65).max(1024) => return (told, Some(1009)),
                (Some((_, so_far, _)), _) => before = so_far.len(),
                _ => (),
            }
        }
        if before as u64 + len > limit.max(125) as u64 {
            return (told, Some(1009));
        }
        let end = head + len as usize;
        let (is_whole, payload) = (rest.len() >= end, &rest[head..rest.len().min(end)]);
        let key = if masked { &rest[head - 4..head] } else { &[0; 4][..] };
        let clear: Vec<u8> = payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        let (kind, so_far) = match &message {
            Some((kind, so_far, _)) if opcode == 0 => (*kind, &so_far[..]),
            _ => (opcode, &[][..]),
        };
        if text
            && kind == 1
            && let Err(error) = std::str::from_utf8(&[so_far, &clear].concat())
            && (error.error_len().is_some() || fin && is_whole)
        {
            return (told, Some(1007));
        }
        if !is_whole {
            return (told, None);
        }
        rest = &rest[end..];
        match opcode {
            8 => {
                let code = match clear[..] {
                    [] => Vec::new(),
                    [_] => return (told, Some(1002)),
                    [high, low, ref reason @ ..] => {
                        if !matches!(u16::from_be_bytes([high, low]), 1000..=1003 | 1007..=1014 | 3000..=4999)
                        {
                            return (told, Some(1002));
                        }
                        if std::str::from_utf8(reason).is_err() {
                            return (told, Some(1007));
                        }
                        vec![high, low]
                    }
                };
                told.push((8, code));
                return (told, None);
            }
            9 | 10 => told.push((opcode, clear)),
            _ => {
                let (kind, so_far, count) = message.get_or_insert((opcode, Vec::new(), 0));
                so_far.extend(clear);
                *count += 1;
                if fin {
                    told.push((*kind, std::mem::take(so_far)));
                    message = None;
                }
            }
        }
    }
}

/// What one end encodes the other decodes, whatever mask it wears.
fn comes_back(role: Role, limit: usize, opcode: u8, payload: &[u8]) {
    let key = [0x5a, 0, 0xff, payload.len() as u8];
    let opcode = if opcode == 1 { Opcode::Text } else { Opcode::Binary };
    let (sender, key) = if role == Role::Server { (Role::Server, Some(key)) } else { (Role::Client, None) };
    let mut bytes = Vec::new();
    let (front, back) = payload.split_at(payload.len() / 2);
    encode(&mut bytes, opcode, &[Piece::from(front), Piece::from(back)], key, &mut ());
    let told = decode(Decoder::new(sender, limit), &bytes, bytes.len());
    assert_eq!(told.0.first().map(|(_, payload)| payload.as_slice()), Some(payload));
    assert_eq!((told.0.len(), told.1), (1, None));
}
