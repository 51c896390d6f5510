//! Tests of [`super`].

use std::collections::BTreeSet;

use serde_json::json;

use super::*;
use crate::control::openrpc::made::{self, Described};
use crate::port::ports::SwitchSettings;

fn served() -> Methods {
    let settings = SwitchSettings { fdb_limit: 16, ..SwitchSettings::default() };
    let hooks = Hooks {
        save: Box::new(|file| async move { file.ok_or("no file to save to".to_owned()) }.boxed()),
        reload: Box::new(|| async { panic!("a task dies") }.boxed()),
        diagnose: Box::new(|| async { Ok(Default::default()) }.boxed()),
    };
    methods(Ports::start(settings).unwrap(), hooks)
}

async fn ask(methods: &Methods, method: Method, params: &str) -> Value {
    let request = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{}","params":{params}}}"#, method.name());
    let (reply, _) = methods.raw_json_request(&request, 1).await.unwrap();
    serde_json::from_str(reply.get()).unwrap()
}

/// The `data` of a refusal for its parameters.
async fn refusal(methods: &Methods, method: Method, params: &str) -> String {
    let reply = ask(methods, method, params).await;
    assert_eq!(reply["error"]["code"], api::INVALID_PARAMS, "{method:?} {params}: {reply}");
    assert_eq!(reply["error"]["message"], "Invalid params");
    reply["error"]["data"].as_str().unwrap().to_owned()
}

fn all_names() -> Vec<&'static str> {
    Method::ALL
        .map(Method::name)
        .into_iter()
        .chain([api::prof::SUBSCRIBE, api::prof::UNSUBSCRIBE])
        .chain([api::events::SUBSCRIBE, api::events::UNSUBSCRIBE])
        .chain([api::seeing::SUBSCRIBE, api::seeing::UNSUBSCRIBE])
        .collect()
}

#[test]
fn the_description_has_every_method_once() {
    let document = described();
    let described: Vec<_> = document["methods"]
        .as_array()
        .unwrap()
        .iter()
        .map(|method| method["name"].as_str().unwrap())
        .collect();
    let all: Vec<_> = all_names();
    assert_eq!(described, all);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    for name in all.iter().filter(|name| **name != Method::Discover.name()) {
        assert!(name.strip_prefix(api::NAMESPACE).is_some_and(|rest| rest.starts_with('.')), "{name}");
    }
}

#[tokio::test]
async fn what_is_served_is_what_is_described() {
    let methods = served();
    let served: BTreeSet<_> = methods.method_names().collect();
    assert_eq!(served, all_names().into_iter().collect());
    // Both at length help nobody.
    let is_described = ask(&methods, Method::Discover, "[]").await["result"] == described();
    assert!(is_described, "docs/openrpc.json says something else; make openrpc writes it anew");
}

/// The document as the table has it.
fn described() -> Value {
    let subscriptions = [
        Described::named::<api::prof::SubscribeProf, String>(
            api::prof::SUBSCRIBE,
            "Over WebSocket: snapshots of the profiler as notifications (etherws.control.prof); their number",
        ),
        Described::named::<[String; 1], bool>(api::prof::UNSUBSCRIBE, "Ends the subscription of that number"),
        Described::named::<api::events::SubscribeEvents, String>(
            api::events::SUBSCRIBE,
            "Over WebSocket: what happens to ports as notifications (etherws.control.event); their number",
        ),
        Described::named::<[String; 1], bool>(
            api::events::UNSUBSCRIBE,
            "Ends the subscription of that number",
        ),
        Described::named::<api::seeing::SubscribeCapture, String>(
            api::seeing::SUBSCRIBE,
            "Over WebSocket: frames at ports as notifications (etherws.control.capture); their number",
        ),
        Described::named::<[String; 1], bool>(
            api::seeing::UNSUBSCRIBE,
            "Ends the subscription of that number",
        ),
    ];
    made::document(table().into_iter().map(|entry| entry.described).chain(subscriptions))
}

/// `make openrpc`. A line for each method and type, so that changes can be read.
#[test]
#[ignore = "writes docs/openrpc.json"]
fn write_openrpc() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openrpc.json");
    let mut document = described();
    let schemas = document["components"]["schemas"].take();
    let lines = |all: Vec<String>| all.join(",\n");
    let methods = document["methods"].take();
    let methods = lines(methods.as_array().unwrap().iter().map(Value::to_string).collect());
    let named = |(name, schema)| format!("\"{name}\": {schema}");
    let schemas = lines(schemas.as_object().unwrap().iter().map(named).collect());
    let (info, version) = (&document["info"], &document["openrpc"]);
    let text = format!(
        "{{\"openrpc\": {version}, \"info\": {info},\n\"methods\": [\n{methods}\n],\n\"components\": {{\"schemas\": {{\n{schemas}\n}}}}}}\n"
    );
    std::fs::write(path, text).unwrap();
}

#[tokio::test]
async fn parameters_are_optional_where_there_are_none() {
    let methods = served();
    for params in ["null", "{}", "[]"] {
        let reply = ask(&methods, Method::GetVersion, params).await;
        assert_eq!(reply["result"]["name"], "etherws", "{params}");
    }
    assert!(refusal(&methods, Method::GetVersion, r#"{"x":1}"#).await.contains("`x`"));
    assert!(refusal(&methods, Method::GetVersion, "7").await.contains("params"));
}

#[tokio::test]
async fn bad_55_wrong_parameters_are_refused_by_name() {
    let methods = served();
    for (method, params, words) in [
        (Method::AddPort, r#"{}"#, &["missing field `type`"][..]),
        (Method::AddPort, r#"{"type":"tap"}"#, &["missing field `target`"]),
        (Method::AddPort, r#"{"type":"tab","target":"x"}"#, &["type", "did you mean `tap`"]),
        (Method::AddPort, r#"{"type":"server","target":"x"}"#, &["type", "server"]),
        (Method::AddPort, r#"{"type":"tap","taget":"x"}"#, &["`taget`", "did you mean `target`"]),
        (Method::AddPort, r#"{"type":"tap","target":7}"#, &["target", "string"]),
        (Method::AddPort, r#"{"type":"tap","target":"../x"}"#, &["target", "../x"]),
        (Method::AddPort, r#"{"type":"tap","target":"a%d"}"#, &["target", "'%'"]),
        (Method::AddPort, r#"{"type":"tap","target":"a\u0000"}"#, &["target", "'\\0'"]),
        (Method::AddPort, r#"{"type":"tap","target":"abcdefghijklmnop"}"#, &["target", "15 bytes"]),
        (Method::AddPort, r#"{"type":"tap","target":"t","mtu":-1}"#, &["mtu", "-1"]),
        (Method::AddPort, r#"{"type":"tap","target":"t","mtu":4294967296}"#, &["mtu", "4294967296"]),
        (Method::AddPort, r#"{"type":"tap","target":"t","access":4095}"#, &["access", "1 to 4094"]),
        (Method::AddPort, r#"{"type":"tap","target":"t","trunk":"5-3"}"#, &["trunk", "5-3"]),
        (
            Method::AddPort,
            r#"{"type":"client","target":"ws://h","options":{"usr":"u"}}"#,
            &["options", "`user`"],
        ),
        (Method::SetPort, r#"{"shut":true}"#, &["missing field `port`"]),
        (Method::SetPort, r#"{"port":1,"shut":"yes"}"#, &["shut", "true or false"]),
        (Method::SetPort, r#"{"port":-1}"#, &["port", "-1"]),
        (Method::SetInterface, r#"{"port":1,"mtu":575}"#, &["mtu", "575"]),
        (Method::SetInterface, r#"{"port":1,"mtu":4294967296}"#, &["mtu"]),
        (Method::SetInterface, r#"{"port":1,"address":"x"}"#, &["address", "\"x\""]),
        (Method::SetInterface, r#"{"port":1,"address":7}"#, &["address"]),
        (Method::AddFdb, r#"{"mac":"01:00:5e:00:00:01","port":1}"#, &["mac", "group"]),
        (Method::AddFdb, r#"{"mac":"02:00:00:00:00:01","port":1,"vid":4095}"#, &["vid", "4095"]),
        (Method::DelFdb, r#"{"mac":"zz"}"#, &["mac", "\"zz\""]),
        (Method::ListFdb, r#"{"limit":0}"#, &["limit", "1 to 100000"]),
        (Method::ListStations, r#"{"limit":100001}"#, &["limit", "1 to 100000"]),
        (Method::ListFdb, r#"{"after":{"vid":1}}"#, &["after", "mac"]),
        (Method::ListFdb, r#"{"after":{"vid":4095,"mac":"02:00:00:00:00:01"}}"#, &["vid", "4095"]),
        (Method::SaveConfig, r#"{"file":"x.toml"}"#, &["file", "absolute"]),
        (Method::TraceFrame, r#"{}"#, &["frame", "dst"]),
        (Method::TraceFrame, r#"{"frame":"0"}"#, &["frame", "half a byte"]),
        (Method::TraceFrame, r#"{"frame":"0x"}"#, &["frame", "'x'"]),
        (Method::TraceFrame, r#"{"frame":"02 00"}"#, &["port", "--from"]),
        (Method::TraceFrame, r#"{"port":9,"dst":"02:00:00:00:00:01"}"#, &["no port 9"]),
        (Method::PingPort, r#"{}"#, &["port", "mac"]),
        (Method::PingPort, r#"{"mac":"02:00:00:00:00:01"}"#, &["02:00:00:00:00:01", "listfdb"]),
        (Method::PingPort, r#"{"port":1,"timeout_ms":0}"#, &["timeout_ms", "60000"]),
    ] {
        let data = refusal(&methods, method, params).await;
        for word in words {
            assert!(data.contains(word), "{params}: {word} is not in {data:?}");
        }
    }
}

#[tokio::test]
async fn bad_53_what_is_no_json_is_told_apart() {
    let methods = served();
    let deep = format!(r#"{{"target":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    for params in [r#"{"port":1e999}"#, r#"{"target":"\ud800"}"#, deep.as_str()] {
        let request =
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{}","params":{params}}}"#, Method::AddPort.name());
        // The server answers -32700 itself when already the request does not parse.
        let Ok((reply, _)) = methods.raw_json_request(&request, 1).await else { continue };
        assert!(reply.get().contains("-32700"), "{}", reply.get());
    }
}

#[tokio::test]
async fn bad_56_racing_adds_and_deletes_leave_nothing() {
    let methods = served();
    let tasks: Vec<_> = (0..100)
        .map(|n| {
            let methods = methods.clone();
            tokio::spawn(async move {
                // Shut: nothing is dialled.
                let params = format!(r#"{{"type":"client","target":"ws://192.0.2.1/{n}","shut":true}}"#);
                let port =
                    ask(&methods, Method::AddPort, &params).await["result"]["entries"][0]["port"].clone();
                let gone = ask(&methods, Method::DelPort, &json!({"port": port}).to_string()).await;
                assert_eq!(gone["result"]["entries"][0]["port"], port, "{gone}");
                let again = ask(&methods, Method::DelPort, &json!({"port": port}).to_string()).await;
                assert_eq!(again["error"]["code"], api::INVALID_PARAMS, "{again}");
                port.as_u64().unwrap()
            })
        })
        .collect();
    let mut numbers = BTreeSet::new();
    for task in tasks {
        assert!(numbers.insert(task.await.unwrap()), "a number given twice");
    }
    assert_eq!(numbers, (1..=100).collect(), "numbers start at 1 and are never reused");
    assert_eq!(ask(&methods, Method::ListPort, "null").await["result"], json!({"entries": []}));
}

#[tokio::test]
async fn bad_58_a_link_is_listed_without_its_secrets() {
    let methods = served();
    let params = json!({"type": "client", "target": "wss://h/?token=s3cret", "shut": true,
        "options": {"user": "u", "passwd": "s3cret", "proxy": "http://a:s3cret@p:1"}});
    let added = ask(&methods, Method::AddPort, &params.to_string()).await;
    let listed = ask(&methods, Method::ListPort, "null").await;
    assert_eq!(added["result"], listed["result"], "{added}");
    assert!(!listed.to_string().contains("s3cret"), "{listed}");
}

#[tokio::test]
async fn bad_57_a_file_that_is_no_certificate_is_not_echoed() {
    let methods = served();
    let file = std::env::temp_dir().join(format!("etherws-rpc-{}", std::process::id()));
    std::fs::write(&file, "root:s3cret:1::\n").unwrap();
    let params = json!({"type": "client", "target": "wss://h/", "options": {"cacerts": file}});
    let why = refusal(&methods, Method::AddPort, &params.to_string()).await;
    std::fs::remove_file(&file).unwrap();
    assert!(why.contains("etherws-rpc-") && !why.contains("s3cret"), "{why}");
}

#[tokio::test]
async fn hooks_answer_and_a_panic_ends_its_call_alone() {
    let methods = served();
    let reply = ask(&methods, Method::SaveConfig, r#"{"file":"/x/etherws.toml"}"#).await;
    assert_eq!(reply["result"], json!({"file": "/x/etherws.toml"}));
    let reply = ask(&methods, Method::SaveConfig, "{}").await;
    let text = "no file to save to";
    assert_eq!(reply["error"], json!({"code": api::FAILED, "message": text, "data": text}));
    let reply = ask(&methods, Method::ReloadConfig, "{}").await;
    assert_eq!(reply["error"]["code"], api::INTERNAL_ERROR);
    assert!(ask(&methods, Method::GetVersion, "{}").await["result"].is_object());
}

#[test]
fn params_of_1_3_are_taken() {
    // Its client sends what was not given as null, for TAPs too.
    let text = r#"{"type":"tap","target":"tap0","options":{"user":null,"passwd":null,"cacerts":null,"insecure":null}}"#;
    let spec: PortSpec = parse(Some(text)).unwrap();
    assert_eq!(spec, PortSpec::new(crate::port::PortKind::Tap, "tap0"));
    assert_eq!(check::check_spec(&spec), Ok(()));
    let set: api::SetInterface =
        parse(Some(r#"{"port":2,"address":"192.0.2.1","netmask":"255.255.255.0","mtu":null}"#)).unwrap();
    assert_eq!((set.mtu, set.netmask.as_deref()), (None, Some("255.255.255.0")));
    let set: api::SetPort = parse(Some(r#"[3, true]"#)).unwrap();
    assert_eq!((set.port, set.shut), (PortRef::Number(3), Some(true)), "by position, too");
}

#[test]
fn bad_58_listings_show_no_credentials() {
    let status =
        json!({"port": 1, "type": "client", "target": "wss://u:s3cret@h/", "tx": 0, "rx": 0, "shut": false});
    let shown = shown(None, vec![serde_json::from_value(status).unwrap()]);
    assert_eq!(shown.entries[0].target, "wss://h/");
}
