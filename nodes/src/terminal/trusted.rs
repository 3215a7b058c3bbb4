//! Which machines a terminal takes for its host: those on the newest list that the company's authority has signed.
//!
//! `nodes.list` in its folder holds the lists that count, each as its length (u32, little-endian) and the list itself:
//! the newest one, and older ones that revoke keys of which the newest says nothing. What was revoked once stays so.

use crate::tracker::names::NodeKey;
use crate::tracker::nodelist::{NODE_LIST_LEN_MAX, NodeList, Role};
use crate::tracker::sign::AuthorityKey;
use crate::transport::problem::{Problem, Why, problem};

/// Most lists that are kept.
const LISTS_MAX: usize = 8;

/// Most bytes of `nodes.list`.
pub const LISTS_LEN_MAX: usize = LISTS_MAX * (4 + NODE_LIST_LEN_MAX);

/// See the module.
pub struct Trusted {
    authority: AuthorityKey,
    /// Whom it joined; believed until a list says otherwise.
    first: NodeKey,
    /// The newest first.
    lists: Vec<(NodeList, Vec<u8>)>,
}

/// What came of being shown a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Learned {
    /// It is the one that is known.
    Nothing,
    /// It is newer, and is to be kept.
    Newer,
    /// It is older than one that was shown before: whoever shows it has forgotten something.
    Older,
}

impl Trusted {
    /// From what was kept, which may be nothing. A list that is damaged or another's is no list.
    pub fn read(kept: &[u8], authority: AuthorityKey, first: NodeKey) -> Self {
        let (mut lists, mut rest) = (Vec::new(), kept);
        while let Some((len, after)) = rest.split_first_chunk::<4>() {
            let Some((bytes, after)) = after.split_at_checked(u32::from_le_bytes(*len) as usize) else { break };
            if let Ok(list) = NodeList::decode(bytes, &authority)
                && lists.len() < LISTS_MAX
            {
                lists.push((list, bytes.to_vec()));
            }
            rest = after;
        }
        Self { authority, first, lists }
    }

    /// What is to be kept.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (_, list) in &self.lists {
            bytes.extend_from_slice(&(list.len() as u32).to_le_bytes());
            bytes.extend_from_slice(list);
        }
        bytes
    }

    /// Generation and sequence of the newest list.
    pub fn newest(&self) -> Option<(u64, u64)> {
        self.lists.first().map(|(list, _)| (list.generation(), list.sequence()))
    }

    /// Takes note of a list.
    ///
    /// # Errors
    /// The company's authority has not signed it.
    pub fn learn(&mut self, bytes: &[u8]) -> Result<Learned, Problem> {
        let list = NodeList::decode(bytes, &self.authority)
            .map_err(|error| problem(Why::Other, format!("the host shows a list that cannot be believed: {error}")))?;
        if let Some((newest, _)) = self.lists.first() {
            if newest == &list {
                return Ok(Learned::Nothing);
            }
            if !list.newer_than(newest) {
                return Ok(Learned::Older);
            }
        }
        let says_more = |older: &NodeList| {
            older.nodes().iter().any(|node| node.revoked && list.get(&node.key).is_none_or(|known| !known.revoked))
        };
        self.lists.retain(|(older, _)| says_more(older));
        self.lists.insert(0, (list, bytes.to_vec()));
        self.lists.truncate(LISTS_MAX);
        Ok(Learned::Newer)
    }

    fn is_revoked(&self, key: &NodeKey) -> bool {
        self.lists.iter().any(|(list, _)| list.get(key).is_some_and(|node| node.revoked))
    }

    /// Who is taken for the host.
    pub fn hosts(&self) -> Vec<NodeKey> {
        let listed = self.lists.first().into_iter().flat_map(|(list, _)| list.nodes());
        let hosts = listed.filter(|node| node.role == Role::Host).map(|node| node.key);
        let mut hosts: Vec<NodeKey> = hosts.chain([self.first]).filter(|key| !self.is_revoked(key)).collect();
        hosts.sort();
        hosts.dedup();
        hosts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracker::nodelist::Listed;
    use crate::tracker::sign::SigningKey;

    const FIRST: NodeKey = NodeKey([1; 32]);
    const OTHER: NodeKey = NodeKey([2; 32]);

    fn list(key: &SigningKey, sequence: u64, nodes: &[(NodeKey, Role, bool)]) -> Vec<u8> {
        let listed = |&(key, role, revoked): &(NodeKey, Role, bool)| {
            let name = format!("m{}", key.0[0]);
            Listed { key, name, role, revoked }
        };
        NodeList::new(1, sequence, nodes.iter().map(listed).collect()).unwrap().encode(key)
    }

    #[test]
    fn the_newest_list_counts_and_a_revocation_for_ever() {
        let (authority, stranger) = (SigningKey::from_seed(&[7; 32]), SigningKey::from_seed(&[8; 32]));
        let mut trusted = Trusted::read(&[], authority.authority(), FIRST);
        assert_eq!((trusted.hosts(), trusted.newest()), (vec![FIRST], None));
        assert!(trusted.learn(&list(&stranger, 9, &[(OTHER, Role::Host, false)])).is_err());

        let first = list(&authority, 3, &[(FIRST, Role::Host, false)]);
        assert_eq!(trusted.learn(&first).unwrap(), Learned::Newer);
        assert_eq!(trusted.learn(&first).unwrap(), Learned::Nothing);
        // The host has another key now, and the old one is void.
        let second = list(&authority, 5, &[(FIRST, Role::Terminal, true), (OTHER, Role::Host, false)]);
        assert_eq!(trusted.learn(&second).unwrap(), Learned::Newer);
        assert_eq!(trusted.hosts(), [OTHER]);
        assert_eq!(trusted.learn(&first).unwrap(), Learned::Older);
        // Later lists that say nothing of it bring it back as little as old ones.
        assert_eq!(trusted.learn(&list(&authority, 8, &[(FIRST, Role::Host, false)])).unwrap(), Learned::Newer);
        assert!(trusted.hosts().is_empty());
        let again = Trusted::read(&trusted.encode(), authority.authority(), FIRST);
        assert_eq!((again.hosts(), again.newest()), (vec![], Some((1, 8))));
    }

    #[test]
    fn what_was_kept_may_be_anything() {
        let authority = SigningKey::from_seed(&[7; 32]);
        let mut trusted = Trusted::read(&[], authority.authority(), FIRST);
        trusted.learn(&list(&authority, 3, &[(OTHER, Role::Host, false)])).unwrap();
        let kept = trusted.encode();
        for at in 0..kept.len() {
            let mut bytes = kept.clone();
            bytes[at] ^= 1;
            assert_eq!(Trusted::read(&bytes, authority.authority(), FIRST).hosts(), [FIRST], "byte {at}");
            assert_eq!(Trusted::read(&kept[..at], authority.authority(), FIRST).hosts(), [FIRST], "{at} bytes");
        }
        assert!(kept.len() < LISTS_LEN_MAX);
    }
}
