//! Who may connect from where.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Networks whose machines may connect to a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clients(Vec<IpNet>);

/// This machine.
const LOOPBACK: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
];

impl Clients {
    /// These networks.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Clients {
        Clients(networks.into_iter().collect())
    }

    /// Whether somebody with this address may connect. An IPv4 address is one however the socket
    /// tells it.
    pub fn include(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|network| network.contains(&ip))
    }

    /// Whether nobody but this machine may.
    pub fn are_local(&self) -> bool {
        let is_local = |network: &IpNet| LOOPBACK.iter().any(|own| own.contains(network));
        self.0.iter().all(is_local)
    }
}

impl Default for Clients {
    /// This machine.
    fn default() -> Clients {
        Clients::new(LOOPBACK)
    }
}

/// Who connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// A machine, by TCP.
    Machine(IpAddr),
    /// A process of this user of this machine, by a Unix socket.
    User(u32),
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Caller::Machine(ip) => write!(f, "{}", ip.to_canonical()),
            Caller::User(id) => write!(f, "user {id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(networks: &[&str]) -> Clients {
        Clients::new(networks.iter().map(|text| text.parse().expect(text)))
    }

    #[test]
    fn an_ipv4_address_is_one_in_ipv6_as_well() {
        let clients = clients(&["10.0.0.0/8", "2001:db8::/32"]);
        for (ip, expected) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("2001:db8::1", true),
            ("127.0.0.1", false),
            ("::ffff:192.0.2.1", false),
            ("::1", false),
        ] {
            assert_eq!(clients.include(ip.parse().expect(ip)), expected, "{ip}");
        }
    }

    #[test]
    fn this_machine_is_nobody_else() {
        assert!(Clients::default().are_local());
        assert!(clients(&[]).are_local());
        assert!(clients(&["127.0.0.1/32"]).are_local());
        for network in ["0.0.0.0/0", "::/0", "10.0.0.1/32", "126.0.0.0/7"] {
            assert!(!clients(&[network]).are_local(), "{network}");
        }
    }
}
