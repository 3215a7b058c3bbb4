//! On what terms second copies are sent: how fast, when, and to whom. Whoever writes keeps a copy without any sending, so
//! none of this holds for that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;
use twinkeep_engine::env::Time;

/// A link whose speed is not known carries a gigabit a second.
pub const LINK_DEFAULT: u64 = 125_000_000;

/// Of what was not sent there is never more left to send at once than in this time.
const BURST: Duration = Duration::from_secs(2);

/// See the module. By default everything is sent at once, to everybody.
#[derive(Default)]
pub struct Terms {
    /// How fast; nothing where it does not matter.
    pub pace: Option<Pace>,
    /// Networks to which something is sent; none where that does not matter.
    pub networks: Vec<Network>,
}

/// How fast copies are sent at certain hours.
pub struct Pace {
    /// Bytes a second.
    pub rate: u64,
    /// Whether it holds now.
    pub holds: Box<dyn Fn(Time) -> bool + Send>,
}

/// Bytes that may be sent: what time gives and sending takes. It may be overdrawn by one frame, which is made good
/// before the next is sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Budget {
    left: i64,
    since: Duration,
}

impl Budget {
    /// What may be sent now at this rate.
    pub fn refill(&mut self, rate: u64, now: Duration) -> i64 {
        let gained =
            |time: Duration| i64::try_from(u128::from(rate) * time.as_micros() / 1_000_000).unwrap_or(i64::MAX);
        let most = gained(BURST);
        let passed = now.saturating_sub(self.since);
        self.left = self.left.saturating_add(gained(passed)).min(most);
        self.since = now;
        self.left
    }

    /// So much was sent.
    pub fn take(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

/// Addresses with a common beginning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// From `192.168.1.0/24` or `fd00::/8`.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        let (address, bits): (IpAddr, u8) = (address.parse().ok()?, bits.parse().ok()?);
        (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some(Self { address, bits })
    }

    /// Whether an address is in it.
    pub fn has(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                (own.to_bits() ^ other.to_bits()) & mask == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                (own.to_bits() ^ other.to_bits()) & mask == 0
            }
            _ => false,
        }
    }
}

impl Terms {
    /// Whether something may be sent to this address.
    pub fn reaches(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.is_empty() || address.is_loopback() || self.networks.iter().any(|network| network.has(address))
    }
}

/// Networks that this machine is in, as Linux lists its routes: those without a gateway. None where it does not say.
pub fn own_networks(proc: &Path) -> Vec<Network> {
    let read = |name: &str| std::fs::read_to_string(proc.join(name)).unwrap_or_default();
    let four = read("route").lines().filter_map(route_of_4).collect::<Vec<_>>();
    four.into_iter().chain(read("ipv6_route").lines().filter_map(route_of_6)).collect()
}

/// `eth0 0001A8C0 00000000 0001 0 0 0 00FFFFFF …`: interface, destination, gateway, flags, …, mask.
fn route_of_4(line: &str) -> Option<Network> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |at: usize| u32::from_str_radix(words.get(at)?, 16).ok().map(u32::from_be);
    let (destination, gateway, mask) = (number(1)?, number(2)?, number(7)?);
    let is_network = gateway == 0 && mask != 0 && mask.leading_ones() == mask.count_ones();
    let address = IpAddr::V4(Ipv4Addr::from_bits(destination));
    is_network.then_some(Network { address, bits: mask.count_ones() as u8 })
}

/// `fd00…00 40 00…00 00 <gateway> …  eth0`: destination, bits, source, bits, gateway, …, interface.
fn route_of_6(line: &str) -> Option<Network> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let address = u128::from_str_radix(words.first()?, 16).ok()?;
    let bits = u8::from_str_radix(words.get(1)?, 16).ok()?;
    let gateway = u128::from_str_radix(words.get(4)?, 16).ok()?;
    let is_network = gateway == 0 && (1..128).contains(&bits) && *words.last()? != "lo";
    // Every machine has multicast.
    let address = Ipv6Addr::from_bits(address);
    (is_network && !address.is_multicast()).then_some(Network { address: IpAddr::V6(address), bits })
}

/// Bytes a second of this machine's fastest link, as Linux says it; none where it does not.
pub fn link_speed(interfaces: &Path) -> Option<u64> {
    let all = std::fs::read_dir(interfaces).ok()?;
    let megabits = |folder: std::path::PathBuf| std::fs::read_to_string(folder.join("speed")).ok()?.trim().parse().ok();
    let speeds = all.flatten().filter_map(|interface| megabits(interface.path()));
    // -1 is said of those that are down or have none.
    speeds.filter(|speed: &i64| *speed > 0).max().map(|speed| speed.unsigned_abs().saturating_mul(125_000))
}

/// How fast copies are to be sent, as people write it: `off`, `20%` of the link, or bytes a second as `5M`.
pub fn parse_rate(text: &str, link: u64) -> Option<Option<u64>> {
    if text == "off" {
        return Some(None);
    }
    if let Some(percent) = text.strip_suffix('%') {
        let percent: u64 = percent.parse().ok().filter(|percent| (1..=100).contains(percent))?;
        return Some(Some((link / 100).saturating_mul(percent).max(1)));
    }
    let (digits, factor) = match text.chars().last()? {
        'K' => (&text[..text.len() - 1], 1 << 10),
        'M' => (&text[..text.len() - 1], 1 << 20),
        'G' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    let bytes: u64 = digits.parse().ok().filter(|bytes| *bytes > 0)?;
    Some(Some(bytes.checked_mul(factor)?))
}

/// Hours of a day, as people write them: `8-18`; the second is the first that is none of them.
pub fn parse_hours(text: &str) -> Option<(u8, u8)> {
    let (from, to) = text.split_once('-')?;
    let (from, to): (u8, u8) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
    (from < to && to <= 24).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_hours_as_people_write_them() {
        let rate = |text: &str| parse_rate(text, LINK_DEFAULT);
        assert_eq!(rate("off"), Some(None));
        assert_eq!(rate("20%"), Some(Some(25_000_000)));
        assert_eq!(rate("100%"), Some(Some(LINK_DEFAULT)));
        assert_eq!(rate("5M"), Some(Some(5 << 20)));
        assert_eq!(rate("7"), Some(Some(7)));
        for bad in
            ["", "%", "0%", "101%", "0", "M", "-1", "5 M", "on", "5m", "99999999999999999999", "é", "99999999999G"]
        {
            assert_eq!(rate(bad), None, "{bad:?}");
        }
        assert_eq!(parse_hours("8-18"), Some((8, 18)));
        assert_eq!(parse_hours("0-24"), Some((0, 24)));
        for bad in ["", "8", "18-8", "8-8", "8-25", "a-b", "8-18-20", "-8"] {
            assert_eq!(parse_hours(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn networks_and_who_is_in_them() {
        let has = |network: &str, address: &str| Network::parse(network).unwrap().has(address.parse().unwrap());
        assert!(has("192.168.1.0/24", "192.168.1.77") && !has("192.168.1.0/24", "192.168.2.77"));
        assert!(has("192.168.1.0/24", "::ffff:192.168.1.77"), "as a socket of both kinds says it");
        assert!(has("0.0.0.0/0", "8.8.8.8") && has("10.1.2.3/32", "10.1.2.3") && !has("10.1.2.3/32", "10.1.2.4"));
        assert!(has("fd00::/8", "fd12::1") && !has("fd00::/8", "fe80::1") && !has("fd00::/8", "10.0.0.1"));
        assert!(has("::/0", "2001:db8::1"));
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "fd00::/129", "x/8", "10.0.0.0/-1", "10.0.0/8"] {
            assert_eq!(Network::parse(bad), None, "{bad:?}");
        }
        let terms = |networks: &[&str]| Terms {
            pace: None,
            networks: networks.iter().map(|text| Network::parse(text).unwrap()).collect(),
        };
        let reaches = |networks: &[&str], address: &str| terms(networks).reaches(address.parse().unwrap());
        assert!(reaches(&[], "8.8.8.8"));
        assert!(reaches(&["10.0.0.0/8"], "127.0.0.1") && reaches(&["10.0.0.0/8"], "10.9.9.9"));
        assert!(!reaches(&["10.0.0.0/8"], "192.168.0.1"));
    }

    #[test]
    fn routes_without_a_gateway_are_own_networks() {
        let folder = tempfile::tempdir().unwrap();
        let four = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n\
            eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\n\
            eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\nodd\n";
        std::fs::write(folder.path().join("route"), four).unwrap();
        let (net, none) = ("fd000000000000010000000000000000", "0".repeat(32));
        let rest = "00000100 00000001 00000000 00000001";
        let six = format!(
            "{net} 40 {none} 00 {none} {rest} eth0\n{none} 00 {none} 00 fe800000000000000000000000000001 {rest} eth0\n\
             ff000000000000000000000000000000 08 {none} 00 {none} {rest} eth0\n{none}{net} 40\n"
        );
        std::fs::write(folder.path().join("ipv6_route"), six).unwrap();
        let expected = ["192.168.1.0/24", "fd00:0:0:1::/64"].map(|text| Network::parse(text).unwrap());
        assert_eq!(own_networks(folder.path()), expected);
        assert_eq!(own_networks(Path::new("/nowhere")), []);
    }

    #[test]
    fn the_fastest_link_counts() {
        let folder = tempfile::tempdir().unwrap();
        for (name, speed) in [("lo", ""), ("eth0", "1000\n"), ("eth1", "-1\n"), ("wlan0", "300\n")] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("speed"), speed).unwrap();
        }
        assert_eq!(link_speed(folder.path()), Some(125_000_000));
        assert_eq!(link_speed(Path::new("/nowhere")), None);
    }
}
