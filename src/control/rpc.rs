//! The contract of [`super::api`], served: parameters parsed and checked, handed to [`Ports`], results
//! and errors put into words. One table both dispatches and describes the methods.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use jsonrpsee::types::ErrorObjectOwned;
use jsonrpsee::{Methods, RpcModule};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::api::{self, Entries, Method, NoParams, check};
use super::cpu_prof;
use super::events;
use super::openrpc::{self, Shape};
use super::prof;
use super::seeing;
use crate::port::spec::{InterfaceChange, PortRef, PortSpec};
use crate::port::status::{CounterStatus, FdbStatus, InterfaceStatus, PortStatus};
use crate::port::tally::{Event, Tally};
use crate::port::{PortError, Ports};

/// What a hook gives later: a result, or why not.
pub type Promise<T> = BoxFuture<'static, Result<T, String>>;

/// What only the daemon can do.
pub struct Hooks {
    /// Writes the running state to the file named, or to the one it was started with; which.
    pub save: Box<dyn Fn(Option<PathBuf>) -> Promise<PathBuf> + Send + Sync>,
    /// Applies the configuration file's differences; what changed.
    pub reload: Box<dyn Fn() -> Promise<Vec<String>> + Send + Sync>,
    /// What the process and its host are like.
    pub diagnose: Box<dyn Fn() -> Promise<api::diagnosis::Diagnosis> + Send + Sync>,
}

/// Every method of the contract, ready to be served. Must be called, and served, within a tokio runtime.
pub fn methods(ports: Arc<Ports>, hooks: Hooks) -> Methods {
    let mut module = RpcModule::new(Context { ports, hooks });
    for Entry { method, call, .. } in table() {
        let registered = module.register_async_method(method.name(), move |params, context, _| {
            let params = params.as_str().map(str::to_owned);
            let tally = context.ports.tally().clone();
            // In a task of its own: a client that hangs up must not leave a change half made, and a
            // panic ends this call alone.
            let call = tokio::spawn(call(context, params));
            async move {
                let answer =
                    call.await.unwrap_or_else(|_| Err(error(api::INTERNAL_ERROR, "Internal error", None)));
                answer.inspect_err(|error| count(error, &tally))
            }
        });
        // Only a name registered twice is refused, and the table has each Method once (tested).
        debug_assert!(registered.is_ok(), "{} registered twice", method.name());
    }
    let subscribed = module.register_subscription(
        api::prof::SUBSCRIBE,
        api::prof::NOTIFICATION,
        api::prof::UNSUBSCRIBE,
        |params, pending, context, _| async move {
            match parse::<api::prof::SubscribeProf>(params.as_str()) {
                Ok(subscribe) => prof::subscribe(context.ports.clone(), subscribe, pending).await,
                Err(error) => {
                    count(&error, context.ports.tally());
                    pending.reject(error).await;
                }
            }
        },
    );
    debug_assert!(subscribed.is_ok(), "a subscription's name is taken");
    let subscribed = module.register_subscription(
        api::events::SUBSCRIBE,
        api::events::NOTIFICATION,
        api::events::UNSUBSCRIBE,
        |params, pending, context, _| async move {
            match parse::<api::events::SubscribeEvents>(params.as_str()) {
                Ok(_) => events::subscribe(context.ports.clone(), pending).await,
                Err(error) => {
                    count(&error, context.ports.tally());
                    pending.reject(error).await;
                }
            }
        },
    );
    debug_assert!(subscribed.is_ok(), "a subscription's name is taken");
    let subscribed = module.register_subscription(
        api::seeing::SUBSCRIBE,
        api::seeing::NOTIFICATION,
        api::seeing::UNSUBSCRIBE,
        |params, pending, context, _| async move {
            match parse::<api::seeing::SubscribeCapture>(params.as_str()) {
                Ok(subscribe) => seeing::subscribe(context.ports.clone(), subscribe, pending).await,
                Err(error) => {
                    count(&error, context.ports.tally());
                    pending.reject(error).await;
                }
            }
        },
    );
    debug_assert!(subscribed.is_ok(), "a subscription's name is taken");
    module.into()
}

struct Context {
    ports: Arc<Ports>,
    hooks: Hooks,
}

pub type Reply<R> = Result<R, ErrorObjectOwned>;
type Call =
    Arc<dyn Fn(Arc<Context>, Option<String>) -> BoxFuture<'static, Reply<Box<RawValue>>> + Send + Sync>;

struct Entry {
    method: Method,
    #[cfg(test)]
    described: openrpc::made::Described,
    call: Call,
}

fn table() -> Vec<Entry> {
    Method::ALL.into_iter().map(entry).collect()
}

fn entry(method: Method) -> Entry {
    match method {
        Method::ListPort => {
            on(method, |c, NoParams {}| async move { Ok(shown(c.ports.node(), c.ports.list())) })
        }
        Method::AddPort => on(method, add_port),
        Method::SetPort => on(method, set_port),
        Method::DelPort => on(method, |c, api::DelPort { port }| async move {
            let gone = c.ports.delete(&port).await.map_err(refused)?;
            Ok(shown(c.ports.node(), vec![gone]))
        }),
        Method::ListInterface => on(method, |c, NoParams {}| async move {
            Ok(Entries { entries: c.ports.interfaces().await.map_err(refused)? })
        }),
        Method::SetInterface => on(method, set_interface),
        Method::ListFdb => {
            on(
                method,
                |c, page: api::Page| async move { Ok(Entries { entries: list_fdb(&c.ports, &page)? }) },
            )
        }
        Method::AddFdb => on(method, add_fdb),
        Method::DelFdb => on(method, del_fdb),
        Method::FlushFdb => on(method, |c, api::FlushFdb { port }| async move {
            let flushed = c.ports.flush_fdb(port.as_ref()).map_err(refused)?;
            Ok(api::Flushed { flushed })
        }),
        Method::ListStations => {
            on(
                method,
                |c, page: api::Page| async move { Ok(c.ports.with_addresses(list_fdb(&c.ports, &page)?)) },
            )
        }
        Method::ListGroups => on(method, |c, NoParams {}| async move { Ok(c.ports.list_groups()) }),
        Method::ListCounters => on(method, |c, NoParams {}| async move {
            Ok(Entries::<CounterStatus> { entries: c.ports.counters() })
        }),
        Method::SaveConfig => on(method, |c, api::SaveConfig { file }| async move {
            let file = (c.hooks.save)(save_path(file)?).await.map_err(failed)?;
            Ok(api::Saved { file: file.to_string_lossy().into_owned() })
        }),
        Method::ReloadConfig => on(method, |c, NoParams {}| async move {
            Ok(api::Changes { changes: (c.hooks.reload)().await.map_err(failed)? })
        }),
        Method::GetVersion => on(method, |c, NoParams {}| async move {
            let host = || nix::unistd::gethostname().ok()?.into_string().ok();
            let node = c.ports.node().map(str::to_owned).or_else(host);
            Ok(api::Version { version: env!("CARGO_PKG_VERSION").into(), name: "etherws".into(), node })
        }),
        Method::Diagnose => {
            on(method, |c, NoParams {}| async move { (c.hooks.diagnose)().await.map_err(failed) })
        }
        Method::StartProf => on(method, |c, start: api::prof::StartProf| async move {
            prof::start(&c.ports, &start).map_err(invalid)
        }),
        Method::StopProf => on(method, |c, NoParams {}| async move { Ok(prof::stop(&c.ports)) }),
        Method::GetProf => on(method, |c, NoParams {}| async move { Ok(prof::status(&c.ports)) }),
        Method::ResetProf => on(method, |c, NoParams {}| async move { Ok(prof::reset(&c.ports)) }),
        Method::ShowProf => {
            on(method, |c, show: api::prof::ShowProf| async move { Ok(prof::show(&c.ports, &show)) })
        }
        Method::LeaseProf => on(method, |c, lease: api::prof::LeaseProf| async move {
            prof::lease(&c.ports, &lease).map_err(invalid)
        }),
        Method::SlowProf => on(method, |c, slow: api::prof::SlowProf| async move {
            Ok(Entries { entries: prof::slow(&c.ports, &slow).map_err(invalid)? })
        }),
        Method::CpuProf => {
            on(method, |_, asked| async move { cpu_prof::sample(asked).await.map_err(refused) })
        }
        Method::TraceFrame => {
            on(method, |c, trace: api::seeing::TraceFrame| async move { seeing::trace(&c.ports, trace) })
        }
        Method::PingPort => {
            on(method, |c, ping: api::seeing::PingPort| async move { seeing::ping(&c.ports, ping).await })
        }
        Method::Discover => on(method, |_, NoParams {}| async move { Ok(openrpc::document()) }),
    }
}

fn on<P, R, Fun, Fut>(method: Method, handler: Fun) -> Entry
where
    P: DeserializeOwned + Shape + Send + 'static,
    R: Serialize + Shape + Send + 'static,
    Fun: Fn(Arc<Context>, P) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Reply<R>> + Send + 'static,
{
    let call = move |context, params: Option<String>| {
        let handler = handler.clone();
        async move {
            let result = handler(context, parse(params.as_deref())?).await?;
            to_raw_value(&result).map_err(|e| failed(format!("result not expressible in JSON: {e}")))
        }
        .boxed()
    };
    Entry {
        method,
        #[cfg(test)]
        described: openrpc::made::Described::new::<P, R>(method),
        call: Arc::new(call),
    }
}

async fn add_port(context: Arc<Context>, spec: PortSpec) -> Reply<Entries<PortStatus>> {
    check::check_spec(&spec).map_err(invalid)?;
    let made = context.ports.add(spec).await.map_err(refused)?;
    Ok(shown(context.ports.node(), vec![made]))
}

async fn set_port(context: Arc<Context>, set: api::SetPort) -> Reply<Entries<PortStatus>> {
    let port = set.port.clone();
    let change = check::port_change(set).map_err(invalid)?;
    let set = context.ports.set(&port, change).await.map_err(refused)?;
    Ok(shown(context.ports.node(), vec![set]))
}

async fn set_interface(context: Arc<Context>, set: api::SetInterface) -> Reply<Entries<InterfaceStatus>> {
    let api::SetInterface { port, address, netmask, mtu, mac } = set;
    mtu.map_or(Ok(()), check::check_mtu).map_err(invalid)?;
    mac.map_or(Ok(()), check::check_mac).map_err(invalid)?;
    let current = match (&address, &netmask) {
        (None, Some(_)) => current_address(&context.ports, &port).await?,
        _ => None,
    };
    let address = check::addresses(address.as_ref(), netmask.as_deref(), current).map_err(invalid)?;
    let change = InterfaceChange { address, mtu, mac };
    Ok(context.ports.set_interface(&port, change).await.map_err(refused)?.into())
}

/// The interface's first IPv4 address; `None` also for a port that is unknown or has no interface:
/// `set_interface` puts that better.
async fn current_address(ports: &Ports, port: &PortRef) -> Reply<Option<Ipv4Addr>> {
    let interfaces = ports.interfaces().await.map_err(refused)?;
    let this = |entry: &&InterfaceStatus| match port {
        PortRef::Number(number) => entry.port == *number,
        PortRef::Name(name) => entry.name == *name,
    };
    match interfaces.iter().find(this) {
        Some(entry) => Ok(entry.address.parse().ok()),
        None => Err(invalid(format!("port: {port} is no port with an interface"))),
    }
}

fn list_fdb(ports: &Ports, page: &api::Page) -> Reply<Vec<FdbStatus>> {
    let most = page.limit.unwrap_or(api::MAX_LISTED);
    if !(1..=api::MAX_LISTED).contains(&most) {
        return Err(invalid(format!("limit: {most} is not 1 to {}", api::MAX_LISTED)));
    }
    page.after.map_or(Ok(()), |after| check::check_vid(after.vid)).map_err(invalid)?;
    if *page == api::Page::default() {
        return ports.fdb(most as usize).ok_or_else(|| {
            let why =
                format!("there are more than {most} stations; ask for them page by page: limit and after");
            error(api::TOO_MANY, &why.clone(), Some(why))
        });
    }
    Ok(ports.fdb_after(page.after.map(|after| (after.vid, after.mac)), most as usize))
}

async fn add_fdb(context: Arc<Context>, add: api::AddFdb) -> Reply<Entries<FdbStatus>> {
    check::check_vid(add.vid).map_err(invalid)?;
    check::check_mac(add.mac).map_err(invalid)?;
    Ok(context.ports.add_fdb(add.vid, add.mac, &add.port).map_err(refused)?.into())
}

async fn del_fdb(context: Arc<Context>, del: api::DelFdb) -> Reply<Entries<FdbStatus>> {
    check::check_vid(del.vid).map_err(invalid)?;
    Ok(context.ports.delete_fdb(del.vid, del.mac).map_err(refused)?.into())
}

/// Absolute: nobody knows the daemon's working directory.
fn save_path(file: Option<String>) -> Reply<Option<PathBuf>> {
    match file {
        Some(file) if !file.starts_with('/') || file.contains('\0') => {
            Err(invalid(format!("file: {file:?} is not an absolute path")))
        }
        file => Ok(file.map(PathBuf::from)),
    }
}

/// Ports as they may be shown, whoever wrote their targets.
fn shown(node: Option<&str>, mut entries: Vec<PortStatus>) -> Entries<PortStatus> {
    for entry in &mut entries {
        entry.node = node.map(str::to_owned);
        entry.target = check::without_credentials(&entry.target);
    }
    Entries { entries }
}

/// Parameters by name (or by position); null and absent are an empty object.
pub fn parse<P: DeserializeOwned>(params: Option<&str>) -> Reply<P> {
    // To a Value first: what is no JSON (1e999, a lone surrogate, endless depth) is told apart from
    // what is JSON but no parameter.
    let mut value = match serde_json::from_str(params.unwrap_or("{}")) {
        Ok(Value::Null) => Value::Object(serde_json::Map::new()),
        Ok(value @ (Value::Object(_) | Value::Array(_))) => value,
        Ok(_) => return Err(invalid("params: expected an object of parameters by name".into())),
        Err(e) => return Err(error(api::PARSE_ERROR, "Parse error", Some(e.to_string()))),
    };
    drop_nulls(&mut value);
    serde_path_to_error::deserialize(value).map_err(|e| {
        let path = e.path().to_string();
        let why = api::did_you_mean(&e.into_inner().to_string());
        invalid(if path == "." { why } else { format!("{path}: {why}") })
    })
}

/// 1.3's client sends options that were not given as null.
fn drop_nulls(value: &mut Value) {
    if let Value::Object(map) = value {
        map.retain(|_, value| !value.is_null());
        map.values_mut().for_each(drop_nulls);
    }
}

pub fn refused(why: PortError) -> ErrorObjectOwned {
    match why {
        PortError::Invalid(text) | PortError::NotFound(text) => invalid(text),
        PortError::Failed(text) => failed(text),
    }
}

pub fn invalid(why: String) -> ErrorObjectOwned {
    error(api::INVALID_PARAMS, "Invalid params", Some(why))
}

/// Of what a caller did wrong.
fn count(error: &ErrorObjectOwned, tally: &Tally) {
    if matches!(error.code(), api::INVALID_PARAMS | api::PARSE_ERROR) {
        tally.count(Event::BadCall);
    }
}

fn failed(why: String) -> ErrorObjectOwned {
    error(api::FAILED, &why.clone(), Some(why))
}

fn error(code: i32, message: &str, data: Option<String>) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(code, message, data)
}

#[cfg(test)]
#[path = "rpc_tests.rs"]
mod tests;
