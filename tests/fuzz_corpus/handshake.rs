//! What a server answers to our opening handshake, and what a client offers to our service: header lines, `%ACCEPT%`
//! in them standing for the answer to the key that was sent.

use std::collections::HashSet;

use etherws::ws::handshake::{CLASSIC, OFFER, Opening, SUPER, accept_for, choose, has_token};
use etherws::ws::joining::{self, Asked, Terms};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};

/// The first byte chooses the status and what was offered.
pub fn run(data: &[u8]) {
    let [choice, lines @ ..] = data else { return };
    let status = [101, 200, 302, 401, 426][usize::from(choice & 7) % 5];
    let version = if choice & 8 == 0 { Version::HTTP_11 } else { Version::HTTP_10 };
    let offered: &[&str] = [&OFFER[..], &OFFER[..1], &[]][usize::from(choice >> 4) % 3];
    let opening = Opening::new(offered);
    let mut asked = HeaderMap::new();
    opening.write_fields(&mut asked);
    assert!(has_token(&asked, &header::UPGRADE, "websocket") && asked[header::SEC_WEBSOCKET_VERSION] == "13");
    let key = asked[header::SEC_WEBSOCKET_KEY].as_bytes().to_vec();
    let accept = accept_for(&key);
    let fields = fields(lines, &accept);
    let status = StatusCode::from_u16(status).expect("a status");

    match opening.check(status, version, &fields) {
        Ok(chosen) => {
            assert!(status == StatusCode::SWITCHING_PROTOCOLS && version == Version::HTTP_11);
            let accepts: Vec<_> = fields.get_all(header::SEC_WEBSOCKET_ACCEPT).iter().collect();
            assert_eq!(accepts.len(), 1);
            assert_eq!(accepts[0].as_bytes().trim_ascii(), accept.as_bytes());
            assert!(words(&fields, header::UPGRADE).contains("websocket"));
            assert!(words(&fields, header::CONNECTION).contains("upgrade"));
            let extensions = fields.get_all(header::SEC_WEBSOCKET_EXTENSIONS).iter();
            assert!(extensions.into_iter().all(|value| value.as_bytes().trim_ascii().is_empty()));
            assert!(chosen.is_none_or(|name| offered.contains(&name.as_str())), "not offered");
        }
        // What a peer sent goes into a message, and that into a log and a terminal.
        Err(why) => {
            let text = why.to_string();
            assert!(text.len() < 2_000 && !text.chars().any(char::is_control), "{text:?}");
        }
    }

    // The same lines as a client's.
    let names: HashSet<&[u8]> = fields
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .collect();
    let has = |name: &str| names.contains(name.as_bytes());
    let classic = has(CLASSIC).then_some(CLASSIC);
    assert_eq!(choose(&fields, false), classic);
    assert_eq!(choose(&fields, true), has(SUPER).then_some(SUPER).or(classic));

    // What is said of a link, by either end, is the same when it is said again.
    let again = |value: &str| {
        HeaderMap::from_iter([(joining::FIELD, HeaderValue::from_str(value).expect("a value"))])
    };
    if let Ok(Some(asked)) = Asked::of(&fields) {
        assert_eq!(Asked::of(&again(&asked.value())), Ok(Some(asked)));
    }
    if let Some(terms) = Terms::of(&fields) {
        let same = Terms::of(&again(&terms.value())).expect("terms");
        assert_eq!((same.id, &*same.secret, same.members), (terms.id, &*terms.secret, terms.members));
        assert!((1..=joining::MOST).contains(&same.members));
    }
}

/// `NAME: VALUE` a line; what is no header is left out, as hyper leaves it out.
fn fields(lines: &[u8], accept: &str) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n').take(64) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let value = line[colon + 1..].trim_ascii();
        let value = if value == b"%ACCEPT%" { accept.as_bytes() } else { value };
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(value))
        {
            fields.append(name, value);
        }
    }
    fields
}

fn words(fields: &HeaderMap, name: HeaderName) -> HashSet<String> {
    let lines =
        fields.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).to_lowercase());
    lines
        .flat_map(|line| line.split(',').map(|word| word.trim_ascii().to_owned()).collect::<Vec<_>>())
        .collect()
}
