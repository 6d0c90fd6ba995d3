//! Internet addresses that stand for others: in texts, in tables, and in what programs give to the kernel.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::ops::Range;

use crate::{Kind, Table};

/// Bytes of the longest `struct sockaddr` that is one of the internet.
pub const SOCKET_BYTES: usize = 28;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// What an IPv4 address begins with in a socket of IPv6.
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// An address with its port; 0 means all ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    ip: IpAddr,
    port: u16,
}

/// An address, and the one that stands for it. Both are of one family, and either both have a port or none has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressPair {
    pub from: Address,
    pub to: Address,
}

/// Whose address the kernel tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The socket's own.
    Own,
    /// The other end's.
    Peer,
}

impl Address {
    fn parse(text: &str) -> Option<Address> {
        if let Ok(both) = text.parse::<SocketAddr>() {
            return (both.port() != 0).then_some(Address { ip: both.ip(), port: both.port() });
        }
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        Some(Address { ip: bare.parse().ok()?, port: 0 })
    }

    /// As a table has it, in so many bytes.
    pub fn encode(self) -> ([u8; 18], usize) {
        let mut bytes = [0; 18];
        bytes[..2].copy_from_slice(&self.port.to_be_bytes());
        match self.ip {
            IpAddr::V4(ip) => {
                bytes[2..6].copy_from_slice(&ip.octets());
                (bytes, 6)
            }
            IpAddr::V6(ip) => {
                bytes[2..].copy_from_slice(&ip.octets());
                (bytes, 18)
            }
        }
    }

    fn decode(bytes: &[u8]) -> Option<Address> {
        let (port, ip) = bytes.split_at_checked(2)?;
        let ip = match ip.len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(ip).ok()?),
            _ => IpAddr::from(<[u8; 16]>::try_from(ip).ok()?),
        };
        Some(Address { ip, port: u16::from_be_bytes([port[0], port[1]]) })
    }
}

impl core::fmt::Display for Address {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.port {
            0 => self.ip.fmt(f),
            port => SocketAddr::new(self.ip, port).fmt(f),
        }
    }
}

impl AddressPair {
    /// `OLD=NEW`, each of them `ADDRESS` or `ADDRESS:PORT`. A port is kept where only the first has one. The address of all
    /// interfaces stands for itself, with another port.
    pub fn parse(text: &str) -> Option<AddressPair> {
        let (from, to) = text.split_once('=')?;
        let (from, mut to) = (Address::parse(from)?, Address::parse(to)?);
        if to.port == 0 {
            to.port = from.port;
        }
        let is_for_all = |address: Address| address.ip.is_unspecified();
        let fits = from.ip.is_ipv4() == to.ip.is_ipv4()
            && (from.port == 0) == (to.port == 0)
            && is_for_all(from) == is_for_all(to)
            && !(is_for_all(from) && from.port == 0);
        fits.then_some(AddressPair { from, to })
    }

    /// Changes what a program gives to the kernel; whether it is that address.
    pub fn lead(&self, socket: &mut [u8]) -> bool {
        replace(socket, self.from, self.to, false)
    }

    /// Changes what the kernel tells a program; whether it is that address. A socket that is bound to all interfaces accepts
    /// connections at any address of its own.
    fn show(&self, socket: &mut [u8], end: End) -> bool {
        replace(socket, self.to, self.from, end == End::Own)
    }

    /// Gives the pairs that stand for this one where others change what it leads to. Of these, and of those, the first that
    /// fits counts.
    pub fn followed(self, others: &[AddressPair], mut give: impl FnMut(AddressPair)) {
        for next in others.iter().filter(|next| next.from.ip == self.to.ip) {
            if next.from.port == 0 || next.from.port == self.to.port {
                let port = if next.to.port == 0 { self.to.port } else { next.to.port };
                return give(AddressPair { from: self.from, to: Address { ip: next.to.ip, port } });
            }
            if self.to.port == 0 {
                // One port of it leads elsewhere.
                let from = Address { ip: self.from.ip, port: next.from.port };
                give(AddressPair { from, to: next.to });
            }
        }
        give(self);
    }
}

/// Changes the address in a `struct sockaddr_in` or `_in6`, where it is `from`.
fn replace(socket: &mut [u8], from: Address, to: Address, all_is_any: bool) -> bool {
    let Some((place, port)) = place(socket, from.ip) else { return false };
    let is_port = from.port == 0 || from.port == port;
    let is_ip = |octets: &[u8]| socket[place.clone()] == *octets;
    let (is_ip, to_all) = match from.ip {
        IpAddr::V4(ip) => (is_ip(&ip.octets()), ip == Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(ip) => (is_ip(&ip.octets()), ip == Ipv6Addr::UNSPECIFIED),
    };
    if !is_port || !(is_ip || (all_is_any && to_all)) {
        return false;
    }
    if is_ip {
        match to.ip {
            IpAddr::V4(ip) => socket[place].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => socket[place].copy_from_slice(&ip.octets()),
        }
    }
    if to.port != 0 {
        socket[2..4].copy_from_slice(&to.port.to_be_bytes());
    }
    true
}

/// Where an address of such a family is in a `struct sockaddr`, and its port.
fn place(socket: &[u8], ip: IpAddr) -> Option<(Range<usize>, u16)> {
    let word = |at: usize| Some([*socket.get(at)?, *socket.get(at + 1)?]);
    let (family, port) = (u16::from_ne_bytes(word(0)?), u16::from_be_bytes(word(2)?));
    let place = match (family, ip) {
        (AF_INET, IpAddr::V4(_)) => 4..8,
        (AF_INET6, IpAddr::V6(_)) => 8..24,
        (AF_INET6, IpAddr::V4(_)) if socket.get(8..20)? == MAPPED => 20..24,
        _ => return None,
    };
    (socket.len() >= place.end).then_some((place, port))
}

impl<'a> Table<'a> {
    /// All pairs of addresses.
    pub fn addresses(&self) -> impl Iterator<Item = AddressPair> + use<'a> {
        let pair = |(from, to): (&[u8], &[u8])| {
            Some(AddressPair { from: Address::decode(from)?, to: Address::decode(to)? })
        };
        // What is of two families is of no table of ours.
        self.texts(Kind::Address)
            .filter_map(pair)
            .filter(|pair| pair.from.ip.is_ipv4() == pair.to.ip.is_ipv4())
    }

    /// Whether any address stands for another.
    pub fn has_addresses(&self) -> bool {
        self.texts(Kind::Address).next().is_some()
    }

    /// Changes the address that a program gives to the kernel in a `struct sockaddr`; whether it is another.
    pub fn lead_address(&self, socket: &mut [u8]) -> bool {
        self.addresses().any(|pair| pair.lead(socket))
    }

    /// Changes the address that the kernel tells a program; whether it is another.
    pub fn show_address(&self, socket: &mut [u8], end: End) -> bool {
        self.addresses().any(|pair| pair.show(socket, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Builder;
    use alloc::string::ToString;
    use alloc::vec::Vec;

    fn v4(ip: [u8; 4], port: u16) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&AF_INET.to_ne_bytes());
        bytes[2..4].copy_from_slice(&port.to_be_bytes());
        bytes[4..8].copy_from_slice(&ip);
        bytes
    }

    fn v6(ip: Ipv6Addr, port: u16) -> [u8; 28] {
        let mut bytes = [0; 28];
        bytes[..2].copy_from_slice(&AF_INET6.to_ne_bytes());
        bytes[2..4].copy_from_slice(&port.to_be_bytes());
        bytes[8..24].copy_from_slice(&ip.octets());
        bytes
    }

    fn table(pairs: &[&str]) -> Vec<u8> {
        let mut builder = Builder::default();
        pairs.iter().for_each(|pair| builder.address(&AddressPair::parse(pair).expect(pair)));
        builder.encode().unwrap()
    }

    fn led<const N: usize>(pairs: &[&str], mut socket: [u8; N]) -> [u8; N] {
        let bytes = table(pairs);
        Table::read(&bytes).unwrap().lead_address(&mut socket);
        socket
    }

    fn shown<const N: usize>(pairs: &[&str], end: End, mut socket: [u8; N]) -> [u8; N] {
        let bytes = table(pairs);
        Table::read(&bytes).unwrap().show_address(&mut socket, end);
        socket
    }

    #[test]
    fn addresses_lead_to_others_and_back() {
        let all_ports = ["10.0.0.1=10.0.0.2"];
        assert_eq!(led(&all_ports, v4([10, 0, 0, 1], 80)), v4([10, 0, 0, 2], 80));
        assert_eq!(led(&all_ports, v4([10, 0, 0, 3], 80)), v4([10, 0, 0, 3], 80));
        assert_eq!(shown(&all_ports, End::Peer, v4([10, 0, 0, 2], 9)), v4([10, 0, 0, 1], 9));
        let one = ["10.0.0.1:80=10.0.0.2:8080", "10.0.0.1:81=10.0.0.9"];
        assert_eq!(led(&one, v4([10, 0, 0, 1], 80)), v4([10, 0, 0, 2], 8080));
        assert_eq!(led(&one, v4([10, 0, 0, 1], 81)), v4([10, 0, 0, 9], 81));
        assert_eq!(led(&one, v4([10, 0, 0, 1], 82)), v4([10, 0, 0, 1], 82));
        assert_eq!(shown(&one, End::Own, v4([10, 0, 0, 2], 8080)), v4([10, 0, 0, 1], 80));
        let six = ["[fe80::1]:80=[fe80::2]:81"];
        let [old, new] = [1, 2].map(|last| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last));
        assert_eq!(led(&six, v6(old, 80)), v6(new, 81));
        assert_eq!(shown(&six, End::Peer, v6(new, 81)), v6(old, 80));
        let mapped = |ip: [u8; 4]| v6(Ipv4Addr::from(ip).to_ipv6_mapped(), 80);
        assert_eq!(led(&all_ports, mapped([10, 0, 0, 1])), mapped([10, 0, 0, 2]));
        // What is cut off, or of another family.
        assert_eq!(led(&all_ports, [2, 0, 0, 80, 10, 0, 0]), [2, 0, 0, 80, 10, 0, 0]);
        assert_eq!(led(&all_ports, [1, 0, b'/']), [1, 0, b'/']);
    }

    #[test]
    fn what_listens_everywhere_has_its_port_at_each_address() {
        let pairs = ["0.0.0.0:80=0.0.0.0:81"];
        assert_eq!(led(&pairs, v4([0; 4], 80)), v4([0; 4], 81));
        assert_eq!(led(&pairs, v4([1, 2, 3, 4], 80)), v4([1, 2, 3, 4], 80));
        assert_eq!(shown(&pairs, End::Own, v4([1, 2, 3, 4], 81)), v4([1, 2, 3, 4], 80));
        assert_eq!(shown(&pairs, End::Peer, v4([1, 2, 3, 4], 81)), v4([1, 2, 3, 4], 81));
    }

    #[test]
    fn pairs_that_say_nothing_whole_are_none() {
        for text in [
            "",
            "10.0.0.1",
            "10.0.0.1=::1",
            "10.0.0.1=10.0.0.2:80",
            "a=b",
            "0.0.0.0=10.0.0.1",
            "10.0.0.1=0.0.0.0",
            "0.0.0.0=0.0.0.0",
            "10.0.0.1:0=10.0.0.2:0",
            "10.0.0.1:99999=10.0.0.2",
            "host:80=10.0.0.1:80",
        ] {
            assert_eq!(AddressPair::parse(text), None, "{text}");
        }
        let pair = AddressPair::parse("[::1]=::2").unwrap();
        assert_eq!((pair.from.to_string(), pair.to.to_string()), ("::1".into(), "::2".into()));
    }

    #[test]
    fn one_change_follows_another() {
        let parse = |text: &str| AddressPair::parse(text).unwrap();
        let expect = |first, next: &[&str], expected: &[&str]| {
            let next: Vec<AddressPair> = next.iter().map(|text| parse(text)).collect();
            let mut found = Vec::new();
            parse(first).followed(&next, |pair| found.push(pair));
            assert_eq!(found, expected.iter().map(|text| parse(text)).collect::<Vec<_>>());
        };
        expect("1.1.1.1=2.2.2.2", &["2.2.2.2=3.3.3.3", "2.2.2.2=4.4.4.4"], &["1.1.1.1=3.3.3.3"]);
        expect("1.1.1.1:1=2.2.2.2:2", &["2.2.2.2=3.3.3.3"], &["1.1.1.1:1=3.3.3.3:2"]);
        expect("1.1.1.1:1=2.2.2.2:2", &["2.2.2.2:3=3.3.3.3:3"], &["1.1.1.1:1=2.2.2.2:2"]);
        expect(
            "1.1.1.1=2.2.2.2",
            &["2.2.2.2:3=3.3.3.3:4", "2.2.2.2:5=4.4.4.4", "9.9.9.9=8.8.8.8"],
            &["1.1.1.1:3=3.3.3.3:4", "1.1.1.1:5=4.4.4.4:5", "1.1.1.1=2.2.2.2"],
        );
    }
}
