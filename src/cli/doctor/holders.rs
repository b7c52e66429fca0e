//! The processes that listen on Copyist's addresses, as Linux shows them to root. Read-only.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use super::system::OtherListener;
use crate::config::Settings;
use crate::hook::ListenAddress;
use crate::spool;

/// The state of a listener in proc_net_tcp(5): `TCP_LISTEN`.
const LISTENS: &str = "0A";

/// A listening socket.
struct UnixSocketSettings {
    endpoint: Endpoint,
    inode: String,
}

#[derive(PartialEq)]
enum Endpoint {
    Port(u16),
    Path(String),
}

/// Returns the ports in use by listeners; `None` if unknown.
pub(super) fn ports() -> Option<Vec<u16>> {
    let of = |socket: UnixSocketSettings| match socket.endpoint {
        Endpoint::Port(port) => Some(port),
        Endpoint::Path(_) => None,
    };
    Some(tcp()?.into_iter().filter_map(of).collect())
}

/// Returns Copyist's listeners that only other programs have open.
pub(super) fn other_listeners(settings: &Settings) -> Vec<OtherListener> {
    let mut sockets = tcp().unwrap_or_default();
    sockets.extend(unix());
    let milters = settings.hook.milter.iter().map(|listen| match listen {
        ListenAddress::Inet(address) => (listen.to_string(), port_of(*address)),
        ListenAddress::Unix(path) => (
            listen.to_string(),
            Endpoint::Path(path.display().to_string()),
        ),
    });
    let listeners = settings.hook.smtp.iter();
    let listeners = listeners.map(|one| (one.listen.to_string(), port_of(one.listen)));
    let wanted: Vec<(String, Endpoint)> = milters.chain(listeners).collect();
    let is_wanted = |socket: &UnixSocketSettings| {
        wanted
            .iter()
            .any(|(_, endpoint)| *endpoint == socket.endpoint)
    };
    sockets.retain(is_wanted);
    let holders = holders(&sockets);
    let ours = spool::lock_holder(&settings.state_dir);
    let of_endpoint = |(listen, endpoint): &(String, Endpoint)| {
        let mut all = Vec::new();
        for socket in sockets.iter().filter(|socket| socket.endpoint == *endpoint) {
            all.extend(holders.get(&socket.inode).into_iter().flatten().copied());
        }
        // systemd keeps sockets that it passes on; a service with another state directory is
        // another instance.
        let is_copyist = |pid: u32| name(pid) == "copyist";
        let runs = ours.is_some_and(is_copyist);
        let is_ours = |pid: &u32| *pid == 1 || Some(*pid) == ours || !runs && is_copyist(*pid);
        let pid = *all.first().filter(|_| !all.iter().any(is_ours))?;
        Some(OtherListener {
            listen: listen.clone(),
            name: name(pid),
            pid,
        })
    };
    wanted.iter().filter_map(of_endpoint).collect()
}

fn port_of(address: SocketAddr) -> Endpoint {
    Endpoint::Port(address.port())
}

fn tcp() -> Option<Vec<UnixSocketSettings>> {
    let four = fs::read_to_string("/proc/net/tcp").ok()?;
    let six = fs::read_to_string("/proc/net/tcp6").unwrap_or_default();
    let listening = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
        (*state == LISTENS).then(|| UnixSocketSettings {
            endpoint: Endpoint::Port(port),
            inode: (*inode).to_owned(),
        })
    };
    let lines = four.lines().chain(six.lines());
    Some(lines.filter_map(listening).collect())
}

/// unix(7): a listener's flags are `__SO_ACCEPTCON`.
fn unix() -> Vec<UnixSocketSettings> {
    let listening = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (flags, inode, path) = (fields.get(3)?, fields.get(6)?, fields.get(7)?);
        (*flags == "00010000").then(|| UnixSocketSettings {
            endpoint: Endpoint::Path((*path).to_owned()),
            inode: (*inode).to_owned(),
        })
    };
    let all = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    all.lines().filter_map(listening).collect()
}

/// Returns the visible processes that have each of these sockets open.
fn holders(sockets: &[UnixSocketSettings]) -> HashMap<String, Vec<u32>> {
    let mut found: HashMap<String, Vec<u32>> = HashMap::new();
    if sockets.is_empty() {
        return found;
    }
    let entries = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    for process in entries(Path::new("/proc")) {
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        for open in entries(&process.path().join("fd")) {
            let Ok(target) = fs::read_link(open.path()) else {
                continue;
            };
            let target = target.to_string_lossy();
            let inode = target
                .strip_prefix("socket:[")
                .and_then(|rest| rest.strip_suffix(']'));
            if let Some(inode) = inode
                && sockets.iter().any(|socket| socket.inode == inode)
            {
                found.entry(inode.to_owned()).or_default().push(pid);
            }
        }
    }
    found
}

/// Returns the name of a process (proc_pid_comm(5)).
fn name(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm"));
    name.unwrap_or_default().trim().to_owned()
}
