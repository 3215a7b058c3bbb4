//! What makes an account a member of a vault: the vault's secret, sealed under the account's key by the account itself,
//! or wrapped to its public key by another member; and what lets the company into a vault of its: the same, wrapped to
//! its recovery key.
//!
//! The host keeps these and can open none of them. What is sealed was sealed by who has the account's key; what is
//! wrapped can be anybody's, the host's too.

use super::names::AccountId;
use twinkeep_engine::crypto::{
    CryptoError, DataKey, PublicKey, SEALED_KEY_LEN, SecretKey, VaultSecret, WRAPPED_LEN, WrappedKey, open_key,
    seal_key, wrap,
};
use twinkeep_engine::env::Entropy;
use twinkeep_engine::id::VaultId;
use zeroize::Zeroizing;

const MEMBER_CONTEXT: &str = "twinkeep 2026 vaults of an account";
const MEMBER_LABEL: &[u8] = b"twinkeep vault of member v1";

const PAIR_CONTEXT: &str = "twinkeep 2026 key pair of an account";

/// The pair that others wrap vaults to follows from an account's key.
pub fn pair(account_key: &[u8; 32]) -> SecretKey {
    SecretKey::from_bytes(&Zeroizing::new(blake3::derive_key(PAIR_CONTEXT, account_key)))
}

/// The key under which an account's vaults are sealed follows from its own.
fn member_key(account_key: &[u8; 32]) -> DataKey {
    let key = Zeroizing::new(blake3::derive_key(MEMBER_CONTEXT, account_key));
    DataKey::from_bytes(&key)
}

fn header(account: &AccountId, vault: &VaultId) -> Vec<u8> {
    [MEMBER_LABEL, &account.0[..], &vault.0].concat()
}

/// Seals a vault's secret for a member.
pub fn seal_vault(
    account_key: &[u8; 32],
    account: &AccountId,
    vault: &VaultId,
    secret: &VaultSecret,
    entropy: &dyn Entropy,
) -> [u8; SEALED_KEY_LEN] {
    seal_key(&member_key(account_key), &header(account, vault), secret.expose(), entropy)
}

/// Whether the account itself has sealed it.
pub fn is_own(sealed: &[u8]) -> bool {
    sealed.len() == SEALED_KEY_LEN
}

/// Whether it can be one or the other, by its length.
pub fn is_wrap(bytes: &[u8]) -> bool {
    matches!(bytes.len(), SEALED_KEY_LEN | WRAPPED_LEN)
}

/// Opens what [`seal_vault`] made, or what another member made with [`wrap_vault`].
pub fn open_vault(
    account_key: &[u8; 32],
    account: &AccountId,
    vault: &VaultId,
    sealed: &[u8],
) -> Result<VaultSecret, CryptoError> {
    if sealed.len() == WRAPPED_LEN {
        return unwrap_vault(&pair(account_key), vault, sealed);
    }
    let short = CryptoError::TooShort { what: "vault key", expected: SEALED_KEY_LEN, found: sealed.len() };
    let sealed: &[u8; SEALED_KEY_LEN] = sealed.try_into().map_err(|_| short)?;
    let secret = open_key(&member_key(account_key), &header(account, vault), sealed)?;
    Ok(VaultSecret::from_bytes(&secret))
}

/// Wraps a vault's secret to the public key of an account, or to the company's recovery key.
///
/// # Panics
/// The key is none that a secret key has: see [`PublicKey::is_usable`].
pub fn wrap_vault(public: &PublicKey, vault: &VaultId, secret: &VaultSecret, entropy: &dyn Entropy) -> Vec<u8> {
    wrap::wrap(public, &DataKey::from_bytes(secret.expose()), vault, entropy).0.to_vec()
}

/// Opens what [`wrap_vault`] made.
pub fn unwrap_vault(secret: &SecretKey, vault: &VaultId, wrapped: &[u8]) -> Result<VaultSecret, CryptoError> {
    let short = CryptoError::TooShort { what: "vault key", expected: WRAPPED_LEN, found: wrapped.len() };
    let wrapped: [u8; WRAPPED_LEN] = wrapped.try_into().map_err(|_| short)?;
    let key = wrap::unwrap(secret, &WrappedKey(wrapped), vault)?;
    Ok(VaultSecret::from_bytes(key.expose()))
}

/// No vault has this id: what is wrapped under it is no vault's secret.
const NO_VAULT: VaultId = VaultId([0; 16]);

const PROOF_CONTEXT: &str = "twinkeep 2026 proof of the recovery kit";

/// A question that only the company's key answers with [`recovery_proof`] of these bytes.
pub fn recovery_challenge(company: &PublicKey, nonce: &[u8; 32], entropy: &dyn Entropy) -> Vec<u8> {
    wrap::wrap(company, &DataKey::from_bytes(nonce), &NO_VAULT, entropy).0.to_vec()
}

/// What the answer must be.
pub fn recovery_proof(nonce: &[u8; 32]) -> [u8; 32] {
    blake3::derive_key(PROOF_CONTEXT, nonce)
}

/// The answer of who has the company's key.
pub fn recovery_answer(company: &SecretKey, challenge: &[u8]) -> Result<[u8; 32], CryptoError> {
    Ok(recovery_proof(unwrap_vault(company, &NO_VAULT, challenge)?.expose()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinkeep_engine::env::SeededEntropy;

    #[test]
    fn members_and_the_company_open_it_and_nobody_else() {
        let dice = SeededEntropy::new(5);
        let secret = VaultSecret::from_bytes(&[9; 32]);
        let (account, vault) = (AccountId([1; 16]), VaultId([2; 16]));
        let sealed = seal_vault(&[3; 32], &account, &vault, &secret, &dice);
        assert_eq!(open_vault(&[3; 32], &account, &vault, &sealed).unwrap().expose(), secret.expose());
        assert!(open_vault(&[4; 32], &account, &vault, &sealed).is_err());
        assert!(open_vault(&[3; 32], &AccountId([0; 16]), &vault, &sealed).is_err());
        assert!(open_vault(&[3; 32], &account, &VaultId([0; 16]), &sealed).is_err());
        assert!(open_vault(&[3; 32], &account, &vault, &sealed[1..]).is_err());

        let company = SecretKey::random(&dice);
        let wrapped = wrap_vault(&company.public(), &vault, &secret, &dice);
        assert_eq!(unwrap_vault(&company, &vault, &wrapped).unwrap().expose(), secret.expose());
        assert!(unwrap_vault(&SecretKey::random(&dice), &vault, &wrapped).is_err());
        assert!(unwrap_vault(&company, &VaultId([0; 16]), &wrapped).is_err());
        assert!(unwrap_vault(&company, &vault, &wrapped[1..]).is_err());

        let challenge = recovery_challenge(&company.public(), &[8; 32], &dice);
        assert_eq!(recovery_answer(&company, &challenge).unwrap(), recovery_proof(&[8; 32]));
        assert_ne!(recovery_proof(&[8; 32]), [8; 32]);
        assert!(recovery_answer(&SecretKey::random(&dice), &challenge).is_err());
        assert!(recovery_answer(&company, &wrapped).is_err(), "a vault's secret is no question");

        // By another member.
        let given = wrap_vault(&pair(&[3; 32]).public(), &vault, &secret, &dice);
        assert_eq!(open_vault(&[3; 32], &account, &vault, &given).unwrap().expose(), secret.expose());
        assert!(open_vault(&[4; 32], &account, &vault, &given).is_err());
        assert!(is_own(&sealed) && !is_own(&given) && is_wrap(&sealed) && is_wrap(&given) && !is_wrap(&given[1..]));
    }
}
