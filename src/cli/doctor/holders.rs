//! Who listens where Copyist should: the processes behind sockets, as Linux tells them to root.
//! Reads and changes nothing else.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use super::system::Stranger;
use crate::config::Settings;
use crate::hook::Listen;
use crate::spool;

/// The state of a listener in proc_net_tcp(5): `TCP_LISTEN`.
const LISTENS: &str = "0A";

/// A socket that somebody listens on: where, and its number.
struct Socket {
    place: Place,
    inode: String,
}

#[derive(PartialEq)]
enum Place {
    Port(u16),
    Path(String),
}

/// Ports that somebody listens on; `None` where the system does not say.
pub(super) fn ports() -> Option<Vec<u16>> {
    let of = |socket: Socket| match socket.place {
        Place::Port(port) => Some(port),
        Place::Path(_) => None,
    };
    Some(tcp()?.into_iter().filter_map(of).collect())
}

/// Listeners of ours that only other programs hold.
pub(super) fn strangers(settings: &Settings) -> Vec<Stranger> {
    let mut sockets = tcp().unwrap_or_default();
    sockets.extend(unix());
    let milters = settings.hook.milter.iter().map(|listen| match listen {
        Listen::Inet(address) => (listen.to_string(), port_of(*address)),
        Listen::Unix(path) => (listen.to_string(), Place::Path(path.display().to_string())),
    });
    let doors = settings.hook.smtp.iter();
    let doors = doors.map(|door| (door.listen.to_string(), port_of(door.listen)));
    let wanted: Vec<(String, Place)> = milters.chain(doors).collect();
    let is_wanted = |socket: &Socket| wanted.iter().any(|(_, place)| *place == socket.place);
    sockets.retain(is_wanted);
    let holders = holders(&sockets);
    let ours = spool::holder(&settings.state_dir);
    let of_place = |(listen, place): &(String, Place)| {
        let mut all = Vec::new();
        for socket in sockets.iter().filter(|socket| socket.place == *place) {
            all.extend(holders.get(&socket.inode).into_iter().flatten().copied());
        }
        // systemd holds what it hands over; and a service of another state directory is another
        // one.
        let is_copyist = |pid: u32| name(pid) == "copyist";
        let runs = ours.is_some_and(is_copyist);
        let is_ours = |pid: &u32| *pid == 1 || Some(*pid) == ours || !runs && is_copyist(*pid);
        let pid = *all.first().filter(|_| !all.iter().any(is_ours))?;
        Some(Stranger {
            listen: listen.clone(),
            name: name(pid),
            pid,
        })
    };
    wanted.iter().filter_map(of_place).collect()
}

fn port_of(address: SocketAddr) -> Place {
    Place::Port(address.port())
}

fn tcp() -> Option<Vec<Socket>> {
    let four = fs::read_to_string("/proc/net/tcp").ok()?;
    let six = fs::read_to_string("/proc/net/tcp6").unwrap_or_default();
    let listening = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
        (*state == LISTENS).then(|| Socket {
            place: Place::Port(port),
            inode: (*inode).to_owned(),
        })
    };
    let lines = four.lines().chain(six.lines());
    Some(lines.filter_map(listening).collect())
}

/// unix(7): a listener's flags are `__SO_ACCEPTCON`.
fn unix() -> Vec<Socket> {
    let listening = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (flags, inode, path) = (fields.get(3)?, fields.get(6)?, fields.get(7)?);
        (*flags == "00010000").then(|| Socket {
            place: Place::Path((*path).to_owned()),
            inode: (*inode).to_owned(),
        })
    };
    let all = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    all.lines().filter_map(listening).collect()
}

/// The processes that have each of these sockets open, as far as we may see them.
fn holders(sockets: &[Socket]) -> HashMap<String, Vec<u32>> {
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

/// What a process is called (proc_pid_comm(5)).
fn name(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm"));
    name.unwrap_or_default().trim().to_owned()
}
