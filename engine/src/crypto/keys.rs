//! All keys of a vault, derived from its one secret.
//!
//! Each is BLAKE3's `derive_key` with a context of its own over secret ‖ vault id (48 bytes), so the same secret in
//! another vault gives other keys. Names of chunks, cut points and list splits depend on them: they are format, and
//! stay as long as the vault.
//!
//! A device that may write and not read holds only a [`DeviceShare`] of them: what names and cuts content, a public key
//! and a record key of its own. Nothing of the share opens anything.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{Gear, PublicKey, SecretKey};
use crate::env::Entropy;
use crate::id::{ChunkId, DeviceId, Kind, VaultId};

const ID_CONTEXT: &str = "twinkeep 2026-11 vault id key v1";
const GEAR_CONTEXT: &str = "twinkeep 2026-11 vault gear key v1";
const LIST_CONTEXT: &str = "twinkeep 2026-11 vault list key v1";
const RECORD_CONTEXT: &str = "twinkeep 2026-11 vault record key v1";
const KEYRING_CONTEXT: &str = "twinkeep 2026-11 vault keyring key v1";
const PAIR_CONTEXT: &str = "twinkeep 2026-11 vault key pair 0 v1";
const CHECK_CONTEXT: &str = "twinkeep 2026-11 vault secret check v1";
const LEAF_CONTEXT: &str = "twinkeep 2026-11 leaf id key v1";
const BRANCH_CONTEXT: &str = "twinkeep 2026-11 branch id key v1";
const DEVICE_CONTEXT: &str = "twinkeep 2026-11 device record key v1";
const UNENCRYPTED_CONTEXT: &str = "twinkeep 2026-11 unencrypted vault v1";

/// References hashed with one call.
const REFS_BATCH: usize = 64;

/// What a vault is opened with: 32 random bytes, wiped when dropped. The recovery words are exactly these.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct VaultSecret([u8; 32]);

impl VaultSecret {
    /// Draws a new one.
    pub fn random(entropy: &dyn Entropy) -> Self {
        let mut secret = Self([0; 32]);
        entropy.fill(&mut secret.0);
        secret
    }

    /// Takes the bytes of a secret opened elsewhere.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(*bytes)
    }

    /// The secret itself, for sealing it or writing it as words.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for VaultSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VaultSecret(…)")
    }
}

/// What a vault's content is named, cut and sealed with, by a full member or by a device that may only write.
#[derive(Clone)]
pub struct VaultKeys {
    vault: VaultId,
    leaf: Key,
    branch: Key,
    list: Key,
    gear: Box<Gear>,
    newest: (u16, PublicKey),
    holder: Holder,
}

type Key = Zeroizing<[u8; 32]>;

/// What only one of the two kinds of holders has.
#[derive(Clone)]
enum Holder {
    Member(Box<MemberKeys>),
    Device { id: DeviceId, record: Key },
}

/// Keys that open, and that speak for the vault.
#[derive(Clone)]
struct MemberKeys {
    record: Key,
    keyring: Key,
    gear: Key,
    check: [u8; 32],
    /// By generation, from 0.
    pairs: Vec<SecretKey>,
}

/// What a device is given: enough to back up incrementally, and nothing that opens.
#[derive(Clone)]
pub struct DeviceShare {
    /// Vault.
    pub vault: VaultId,
    /// The device.
    pub id: DeviceId,
    /// Names leaves.
    pub leaf: Zeroizing<[u8; 32]>,
    /// Names branches.
    pub branch: Zeroizing<[u8; 32]>,
    /// Splits lists.
    pub list: Zeroizing<[u8; 32]>,
    /// Cuts content.
    pub gear: Zeroizing<[u8; 32]>,
    /// Makes the MACs of this device's records, and of nobody else's.
    pub record: Zeroizing<[u8; 32]>,
    /// Generation of the key pair …
    pub generation: u16,
    /// … whose public half data keys are wrapped to.
    pub public: PublicKey,
}

impl fmt::Debug for DeviceShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceShare({:?}, {:?})", self.vault, self.id)
    }
}

impl VaultKeys {
    /// Derives everything that follows from the secret alone: all but later generations of key pairs.
    pub fn derive(secret: &VaultSecret, vault: VaultId) -> Self {
        let mut material = Zeroizing::new([0; 48]);
        material[..32].copy_from_slice(&secret.0);
        material[32..].copy_from_slice(&vault.0);
        let key = |context| Zeroizing::new(blake3::derive_key(context, &*material));
        let id = key(ID_CONTEXT);
        let pair = SecretKey::from_bytes(&key(PAIR_CONTEXT));
        let gear = key(GEAR_CONTEXT);
        Self {
            vault,
            leaf: Zeroizing::new(blake3::derive_key(LEAF_CONTEXT, &*id)),
            branch: Zeroizing::new(blake3::derive_key(BRANCH_CONTEXT, &*id)),
            list: key(LIST_CONTEXT),
            gear: Box::new(Gear::new(&gear)),
            newest: (0, pair.public()),
            holder: Holder::Member(Box::new(MemberKeys {
                record: key(RECORD_CONTEXT),
                keyring: key(KEYRING_CONTEXT),
                gear,
                check: *key(CHECK_CONTEXT),
                pairs: vec![pair],
            })),
        }
    }

    /// The keys of a device, from what it was given.
    pub fn of_device(share: &DeviceShare) -> Self {
        Self {
            vault: share.vault,
            leaf: share.leaf.clone(),
            branch: share.branch.clone(),
            list: share.list.clone(),
            gear: Box::new(Gear::new(&share.gear)),
            newest: (share.generation, share.public),
            holder: Holder::Device { id: share.id, record: share.record.clone() },
        }
    }

    /// What to give to a new device; `None` for keys that are a device's themselves.
    pub fn share(&self, id: DeviceId) -> Option<DeviceShare> {
        let member = self.member()?;
        let (generation, public) = self.newest;
        Some(DeviceShare {
            vault: self.vault,
            id,
            leaf: self.leaf.clone(),
            branch: self.branch.clone(),
            list: self.list.clone(),
            gear: member.gear.clone(),
            record: member.device_record(&id),
            generation,
            public,
        })
    }

    /// The device these keys are of; `None` for a member's.
    pub fn device(&self) -> Option<DeviceId> {
        match &self.holder {
            Holder::Member(_) => None,
            Holder::Device { id, .. } => Some(*id),
        }
    }

    fn member(&self) -> Option<&MemberKeys> {
        match &self.holder {
            Holder::Member(member) => Some(member),
            Holder::Device { .. } => None,
        }
    }

    /// The keys of a vault made without encryption: anybody who knows its id can derive them.
    pub fn unencrypted(vault: VaultId) -> Self {
        Self::derive(&VaultSecret(blake3::derive_key(UNENCRYPTED_CONTEXT, &vault.0)), vault)
    }

    /// The vault these keys are of.
    pub fn vault(&self) -> VaultId {
        self.vault
    }

    /// Name of a leaf: keyed BLAKE3 of its bytes.
    pub fn leaf_id(&self, bytes: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(&self.leaf, bytes).as_bytes())
    }

    /// Name of a branch: keyed BLAKE3 of the number of references (u32), the references, the payload.
    pub fn branch_id(&self, refs: &[ChunkId], payload: &[u8]) -> ChunkId {
        let count = u32::try_from(refs.len()).expect("a branch has at most BRANCH_REFS_MAX references");
        let key = if crate::zoo::planted("kind-not-in-id") { &self.leaf } else { &self.branch };
        let mut hasher = blake3::Hasher::new_keyed(key);
        hasher.update(&count.to_le_bytes());
        let mut batch = [0; REFS_BATCH * ChunkId::LEN];
        for refs in refs.chunks(REFS_BATCH) {
            let bytes = &mut batch[..refs.len() * ChunkId::LEN];
            for (place, id) in bytes.as_chunks_mut::<{ ChunkId::LEN }>().0.iter_mut().zip(refs) {
                *place = id.0;
            }
            hasher.update(bytes);
        }
        hasher.update(payload);
        ChunkId(*hasher.finalize().as_bytes())
    }

    /// Name of a chunk of either kind; a leaf has no references.
    pub fn chunk_id(&self, kind: Kind, refs: &[ChunkId], payload: &[u8]) -> ChunkId {
        match kind {
            Kind::Leaf => {
                assert!(refs.is_empty(), "a leaf refers to nothing");
                self.leaf_id(payload)
            }
            Kind::Branch => self.branch_id(refs, payload),
        }
    }

    /// Keyed hash of a list entry's bytes; long lists end a node where its low bits are zero.
    pub fn list_split(&self, bytes: &[u8]) -> u64 {
        let hash = blake3::keyed_hash(&self.list, bytes);
        let [low, ..] = hash.as_bytes().as_chunks::<8>().0 else { unreachable!("a hash has 32 bytes") };
        u64::from_le_bytes(*low)
    }

    /// Proof that a record was written by somebody who holds these keys: a member, or this very device.
    pub fn record_mac(&self, bytes: &[u8]) -> [u8; 32] {
        let key = match &self.holder {
            Holder::Member(member) => &member.record,
            Holder::Device { record, .. } => record,
        };
        *blake3::keyed_hash(key, bytes).as_bytes()
    }

    /// Proof that a record was written by this device; `None` where these keys cannot tell: those of another device.
    pub fn device_mac(&self, id: &DeviceId, bytes: &[u8]) -> Option<[u8; 32]> {
        let key = match &self.holder {
            Holder::Member(member) => member.device_record(id),
            Holder::Device { id: own, record } if own == id => record.clone(),
            Holder::Device { .. } => return None,
        };
        Some(*blake3::keyed_hash(&key, bytes).as_bytes())
    }

    /// Where content is cut.
    pub fn gear(&self) -> &Gear {
        &self.gear
    }

    /// The newest key pair's generation and public half: data keys of new sessions are wrapped to it. A device keeps
    /// to the one it was given.
    pub fn newest(&self) -> (u16, &PublicKey) {
        (self.newest.0, &self.newest.1)
    }

    /// The secret half of a generation; `None` for one this vault never had, and always for a device.
    pub fn secret(&self, generation: u16) -> Option<&SecretKey> {
        self.member()?.pairs.get(usize::from(generation))
    }

    /// Adds the next generation's key pair, read from the keyring or newly drawn; returns its number.
    ///
    /// # Panics
    /// After 65 536 generations, as the keyring refuses long before; for a device, which never opens a keyring.
    pub fn add_pair(&mut self, secret: SecretKey) -> u16 {
        let Holder::Member(member) = &mut self.holder else { panic!("a device has no key pairs") };
        let generation = u16::try_from(member.pairs.len()).expect("the keyring bounds its generations");
        self.newest = (generation, secret.public());
        member.pairs.push(secret);
        generation
    }

    /// Tells whether a secret is this vault's without showing anything of it; stands in the keyring. `None` for a
    /// device.
    pub fn check_value(&self) -> Option<&[u8; 32]> {
        Some(&self.member()?.check)
    }

    /// Seals later generations' secret keys in the keyring; `None` for a device.
    pub(crate) fn keyring_key(&self) -> Option<&[u8; 32]> {
        Some(&self.member()?.keyring)
    }
}

impl MemberKeys {
    /// Every member can derive every device's, and no device another's.
    fn device_record(&self, id: &DeviceId) -> Key {
        let mut material = Zeroizing::new([0; 32 + DeviceId::LEN]);
        material[..32].copy_from_slice(&*self.record);
        material[32..].copy_from_slice(&id.0);
        Zeroizing::new(blake3::derive_key(DEVICE_CONTEXT, &*material))
    }
}

impl fmt::Debug for VaultKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.holder {
            Holder::Member(member) => write!(f, "VaultKeys({:?}, {} generations)", self.vault, member.pairs.len()),
            Holder::Device { id, .. } => write!(f, "VaultKeys({:?}, {id:?})", self.vault),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SystemEntropy;

    const VAULT: VaultId = VaultId([2; 16]);

    fn keys() -> VaultKeys {
        VaultKeys::derive(&VaultSecret([1; 32]), VAULT)
    }

    /// Everything derived, in one string.
    fn fingerprint(keys: &VaultKeys) -> Vec<String> {
        let hex = |bytes: &[u8; 32]| ChunkId(*bytes).to_hex()[..16].to_owned();
        vec![
            hex(&keys.leaf),
            hex(&keys.branch),
            hex(&keys.list),
            hex(&keys.member().unwrap().record),
            hex(keys.keyring_key().unwrap()),
            hex(keys.check_value().unwrap()),
            format!("{:016x}", keys.gear.table()[0]),
            hex(&keys.newest().1.0),
        ]
    }

    #[test]
    fn derivation_is_format() {
        let all = fingerprint(&keys());
        assert_eq!(
            all.join(" "),
            "d5817f84e481a91b 4c6b46300a10597b 00ec26435c149a78 9ac78d6236c4d30e eae58a6852a501a4 37812d54079088e9 0069c135a87ab84b 00623a3d1e5392d0"
        );
        let others = [
            fingerprint(&VaultKeys::derive(&VaultSecret([1; 32]), VaultId([3; 16]))),
            fingerprint(&VaultKeys::derive(&VaultSecret([2; 32]), VAULT)),
            fingerprint(&VaultKeys::unencrypted(VAULT)),
        ];
        for other in &others {
            assert!(all.iter().zip(other).all(|(one, two)| one != two), "{other:?}");
        }
        let mut distinct = all.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), all.len());
    }

    #[test]
    fn names_are_format() {
        let keys = keys();
        assert_eq!(keys.leaf_id(b"").to_hex(), "98c733bcf61a6c3725418fa6828080c5a3448773201e817041ff48915a551a48");
        assert_eq!(
            keys.leaf_id(b"twinkeep").to_hex(),
            "6090cd545cc67ea6668f5a5c8934ab7681194bcc498380603e017c26c7e995c2"
        );
        let refs = [ChunkId([4; 32]), ChunkId([5; 32])];
        assert_eq!(
            keys.branch_id(&refs, b"payload").to_hex(),
            "afd082e012e478c9b6877b818eb025eefa34e9f285d3ff6cc108dcfc1cbb0518"
        );
        assert_eq!(keys.list_split(b"name"), 17539572658108487159);
        let mac = ChunkId(keys.record_mac(b"record"));
        assert_eq!(mac.to_hex(), "bfdf681720461a134b43a1d45e4ad120ad136fdba57588e1b7e6bdf230af3ff8");
    }

    #[test]
    fn names_tell_kind_and_shape_apart() {
        let keys = keys();
        let id = ChunkId([4; 32]);
        let names = [
            keys.chunk_id(Kind::Leaf, &[], &id.0),
            keys.chunk_id(Kind::Branch, &[], &id.0),
            keys.chunk_id(Kind::Branch, &[id], &[]),
            keys.chunk_id(Kind::Branch, &[id, id], &[]),
            keys.chunk_id(Kind::Branch, &[id], &id.0),
        ];
        for (at, name) in names.iter().enumerate() {
            assert!(!names[..at].contains(name), "{at}");
        }
        assert_eq!(names[0], keys.leaf_id(&id.0));
    }

    #[test]
    fn batched_references_hash_like_one_string() {
        let keys = keys();
        for count in [0usize, 1, 63, 64, 65, 128, 1000] {
            let refs: Vec<_> = (0..count).map(|at| ChunkId([at as u8; 32])).collect();
            let mut whole = (count as u32).to_le_bytes().to_vec();
            refs.iter().for_each(|id| whole.extend_from_slice(&id.0));
            whole.extend_from_slice(b"payload");
            let naive = *blake3::keyed_hash(&keys.branch, &whole).as_bytes();
            assert_eq!(keys.branch_id(&refs, b"payload").0, naive, "{count}");
        }
    }

    #[test]
    fn generations_stack() {
        let mut keys = keys();
        assert_eq!(keys.newest().0, 0);
        let next = SecretKey::random(&SystemEntropy);
        assert_eq!(keys.add_pair(next.clone()), 1);
        assert_eq!(keys.newest(), (1, &next.public()));
        assert_eq!(keys.secret(0).map(SecretKey::public), Some(*self::keys().newest().1));
        assert!(keys.secret(2).is_none());
    }

    #[test]
    fn devices_name_as_members_do_and_open_nothing() {
        let mut keys = keys();
        keys.add_pair(SecretKey::from_bytes(&[9; 32]));
        let (one, two) = (DeviceId([1; 8]), DeviceId([2; 8]));
        let device = VaultKeys::of_device(&keys.share(one).unwrap());
        assert_eq!(device.leaf_id(b"x"), keys.leaf_id(b"x"));
        assert_eq!(device.branch_id(&[ChunkId([4; 32])], b"x"), keys.branch_id(&[ChunkId([4; 32])], b"x"));
        assert_eq!(device.list_split(b"x"), keys.list_split(b"x"));
        assert_eq!(device.gear(), keys.gear());
        assert_eq!(device.newest(), keys.newest());
        assert_eq!((device.device(), keys.device(), device.vault()), (Some(one), None, VAULT));
        assert!(device.secret(0).is_none() && device.secret(1).is_none() && device.share(two).is_none());
        assert!(device.check_value().is_none() && device.keyring_key().is_none());
        // Each device speaks for itself alone.
        assert_eq!(keys.device_mac(&one, b"x"), Some(device.record_mac(b"x")));
        assert_eq!(device.device_mac(&one, b"x"), keys.device_mac(&one, b"x"));
        assert_eq!(device.device_mac(&two, b"x"), None);
        assert_ne!(keys.device_mac(&two, b"x"), Some(device.record_mac(b"x")));
        assert_ne!(keys.record_mac(b"x"), device.record_mac(b"x"));
        assert_eq!(
            ChunkId(device.record_mac(b"record")).to_hex(),
            "d7369fc449a423003249b11bf6856a2978f97f8c426a12e772626d9344edcd75"
        );
    }

    #[test]
    fn debug_tells_nothing() {
        let share = keys().share(DeviceId([5; 8])).unwrap();
        assert_eq!(format!("{share:?}"), "DeviceShare(VaultId(02020202), DeviceId(05050505))");
        assert_eq!(format!("{:?}", VaultKeys::of_device(&share)), "VaultKeys(VaultId(02020202), DeviceId(05050505))");
        assert_eq!(format!("{:?}", VaultSecret([7; 32])), "VaultSecret(…)");
        assert_eq!(format!("{:?}", keys()), "VaultKeys(VaultId(02020202), 1 generations)");
    }
}
