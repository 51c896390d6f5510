//! Congestion control of links: what the kernel makes of a [`Congestion`] (TCP_CONGESTION, tcp(7)).

use std::{fs, io};

use socket2::{Domain, SockRef, Socket, Type};

use super::spec::Congestion;

/// Whether the kernel has what is asked for, and lets us use it; the error says what it has.
pub fn check(wanted: &Congestion) -> Result<(), String> {
    match wanted {
        Congestion::System => Ok(()),
        Congestion::Named(_) => {
            let tried = fresh().and_then(|socket| set(&SockRef::from(&socket), wanted));
            tried.map_err(|error| format!("congestion: {error}"))
        }
    }
}

/// Gives it to a connection, or to a socket that is to become one.
pub fn set(socket: &SockRef<'_>, wanted: &Congestion) -> io::Result<()> {
    match wanted {
        Congestion::System => socket.set_tcp_congestion(&fresh()?.tcp_congestion()?),
        Congestion::Named(name) => {
            socket.set_tcp_congestion(name.as_bytes()).map_err(|error| explained(name, &error))
        }
    }
}

/// As the system makes them.
fn fresh() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::STREAM.cloexec(), None)
        .or_else(|_| Socket::new(Domain::IPV6, Type::STREAM.cloexec(), None))
}

fn explained(name: &str, error: &io::Error) -> io::Error {
    let text = match error.raw_os_error() {
        Some(libc::ENOENT) => {
            format!("this kernel knows no congestion control {name:?}, but {}", listed("available"))
        }
        Some(libc::EPERM) => {
            format!("congestion control {name:?} takes CAP_NET_ADMIN; all may use {}", listed("allowed"))
        }
        _ => format!("congestion control {name:?} could not be set: {error}"),
    };
    io::Error::new(error.kind(), text)
}

/// `reno, bbr (net.ipv4.tcp_available_congestion_control)`
fn listed(which: &str) -> String {
    let setting = format!("tcp_{which}_congestion_control");
    match fs::read_to_string(format!("/proc/sys/net/ipv4/{setting}")) {
        Ok(names) => {
            format!("{} (net.ipv4.{setting})", names.split_whitespace().collect::<Vec<_>>().join(", "))
        }
        Err(_) => format!("those of net.ipv4.{setting}"),
    }
}

#[cfg(test)]
mod tests {
    use caps::{CapSet, Capability};

    use super::*;

    fn named(name: &str) -> Congestion {
        name.parse().unwrap()
    }

    fn names(which: &str) -> Vec<String> {
        let all = fs::read_to_string(format!("/proc/sys/net/ipv4/tcp_{which}_congestion_control")).unwrap();
        all.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_socket_gets_what_is_asked_for_and_the_system_s_again() {
        let now = |socket: &Socket| {
            let name = socket.tcp_congestion().unwrap();
            String::from_utf8(name).unwrap().trim_end_matches('\0').to_owned()
        };
        let socket = fresh().unwrap();
        let usual = now(&socket);
        for name in names("allowed") {
            check(&named(&name)).unwrap();
            set(&SockRef::from(&socket), &named(&name)).unwrap();
            assert_eq!(now(&socket), name);
        }
        set(&SockRef::from(&socket), &Congestion::System).unwrap();
        assert_eq!(now(&socket), usual);
    }

    #[test]
    fn what_the_kernel_refuses_is_told_with_what_it_has() {
        let unknown = check(&named("nonesuch")).unwrap_err();
        assert!(unknown.contains("\"nonesuch\""), "{unknown}");
        assert!(names("available").iter().all(|name| unknown.contains(name.as_str())), "{unknown}");
        let allowed = names("allowed");
        // Where everything is allowed to everybody there is nothing to be refused.
        let restricted = names("available").into_iter().find(|name| !allowed.contains(name));
        let Some(restricted) = restricted else { return };
        // Of this thread alone.
        caps::drop(None, CapSet::Effective, Capability::CAP_NET_ADMIN).unwrap();
        let refused = check(&named(&restricted)).unwrap_err();
        assert!(refused.contains("CAP_NET_ADMIN"), "{refused}");
        assert!(allowed.iter().all(|name| refused.contains(name.as_str())), "{refused}");
    }
}
