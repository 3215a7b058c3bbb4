//! All keys of a vault, derived from its one secret.
//!
//! Each is BLAKE3's `derive_key` with a context of its own over secret ‖ vault id (48 bytes), so the same secret in
//! another vault gives other keys. Names of chunks, cut points and list splits depend on them: they are format, and
//! stay as long as the vault.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{Gear, PublicKey, SecretKey};
use crate::env::Entropy;
use crate::id::{ChunkId, Kind, VaultId};

const ID_CONTEXT: &str = "twinkeep 2026-11 vault id key v1";
const GEAR_CONTEXT: &str = "twinkeep 2026-11 vault gear key v1";
const LIST_CONTEXT: &str = "twinkeep 2026-11 vault list key v1";
const RECORD_CONTEXT: &str = "twinkeep 2026-11 vault record key v1";
const KEYRING_CONTEXT: &str = "twinkeep 2026-11 vault keyring key v1";
const PAIR_CONTEXT: &str = "twinkeep 2026-11 vault key pair 0 v1";
const CHECK_CONTEXT: &str = "twinkeep 2026-11 vault secret check v1";
const LEAF_CONTEXT: &str = "twinkeep 2026-11 leaf id key v1";
const BRANCH_CONTEXT: &str = "twinkeep 2026-11 branch id key v1";
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

    /// The secret itself, for sealing it into a slot or writing it as words.
    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for VaultSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VaultSecret(…)")
    }
}

/// Everything a full member of a vault holds.
#[derive(Clone)]
pub struct VaultKeys {
    vault: VaultId,
    leaf: Key,
    branch: Key,
    list: Key,
    record: Key,
    keyring: Key,
    check: [u8; 32],
    gear: Box<Gear>,
    /// By generation, from 0.
    pairs: Vec<(PublicKey, SecretKey)>,
}

type Key = Zeroizing<[u8; 32]>;

impl VaultKeys {
    /// Derives everything that follows from the secret alone: all but later generations of key pairs.
    pub fn derive(secret: &VaultSecret, vault: VaultId) -> Self {
        let mut material = Zeroizing::new([0; 48]);
        material[..32].copy_from_slice(&secret.0);
        material[32..].copy_from_slice(&vault.0);
        let key = |context| Zeroizing::new(blake3::derive_key(context, &*material));
        let id = key(ID_CONTEXT);
        let pair = SecretKey::from_bytes(&key(PAIR_CONTEXT));
        Self {
            vault,
            leaf: Zeroizing::new(blake3::derive_key(LEAF_CONTEXT, &*id)),
            branch: Zeroizing::new(blake3::derive_key(BRANCH_CONTEXT, &*id)),
            list: key(LIST_CONTEXT),
            record: key(RECORD_CONTEXT),
            keyring: key(KEYRING_CONTEXT),
            check: *key(CHECK_CONTEXT),
            gear: Box::new(Gear::new(&key(GEAR_CONTEXT))),
            pairs: vec![(pair.public(), pair)],
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

    /// Proof that a record was written by somebody who holds these keys.
    pub fn record_mac(&self, bytes: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.record, bytes).as_bytes()
    }

    /// Where content is cut.
    pub fn gear(&self) -> &Gear {
        &self.gear
    }

    /// The newest key pair's generation and public half: data keys of new sessions are wrapped to it.
    pub fn newest(&self) -> (u16, &PublicKey) {
        let last = self.pairs.len() - 1;
        (last as u16, &self.pairs[last].0)
    }

    /// The secret half of a generation; `None` for one this vault never had.
    pub fn secret(&self, generation: u16) -> Option<&SecretKey> {
        self.pairs.get(usize::from(generation)).map(|(_, secret)| secret)
    }

    /// Adds the next generation's key pair, read from the keyring or newly drawn; returns its number.
    ///
    /// # Panics
    /// After 65 536 generations; the keyring refuses long before.
    pub fn add_pair(&mut self, secret: SecretKey) -> u16 {
        let generation = u16::try_from(self.pairs.len()).expect("the keyring bounds its generations");
        self.pairs.push((secret.public(), secret));
        generation
    }

    /// Tells whether a secret is this vault's without showing anything of it; stands in the keyring.
    pub fn check_value(&self) -> &[u8; 32] {
        &self.check
    }

    /// Seals later generations' secret keys in the keyring.
    pub(crate) fn keyring_key(&self) -> &[u8; 32] {
        &self.keyring
    }
}

impl fmt::Debug for VaultKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VaultKeys({:?}, {} generations)", self.vault, self.pairs.len())
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
            hex(&keys.record),
            hex(&keys.keyring),
            hex(&keys.check),
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
        assert_eq!(keys.secret(0).map(SecretKey::public), Some(self::keys().pairs[0].0));
        assert!(keys.secret(2).is_none());
    }

    #[test]
    fn debug_tells_nothing() {
        assert_eq!(format!("{:?}", VaultSecret([7; 32])), "VaultSecret(…)");
        assert_eq!(format!("{:?}", keys()), "VaultKeys(VaultId(02020202), 1 generations)");
    }
}
