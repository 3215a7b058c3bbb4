//! Which of the office's vaults a name means.

use twinkeep_nodes::remote::office::VaultOf;
use twinkeep_nodes::tracker::names::fold;

use crate::error::{Code, hinted};

/// So many digits of an id at least name a vault.
const ID_DIGITS_MIN: usize = 8;

/// How a vault is named for everybody.
pub fn location(vault: &VaultOf) -> String {
    format!("twinkeep://{}/{}", vault.owner, vault.name)
}

/// The vault of this name: one that `account` owns; else `OWNER/NAME`; else one of another owner; else the one whose id
/// begins so. Of several, none: somebody else may have given theirs that name.
///
/// # Errors
/// Exit 10: there is none, or more than one.
pub fn named<'a>(vaults: &'a [VaultOf], account: &str, name: &str) -> anyhow::Result<&'a VaultOf> {
    let is = |text: &str| fold(text) == fold(name);
    let digits = name.to_ascii_lowercase();
    let ways: [&dyn Fn(&VaultOf) -> bool; 4] = [
        &|vault| vault.owner == account && is(&vault.name),
        &|vault| is(&format!("{}/{}", vault.owner, vault.name)),
        &|vault| is(&vault.name),
        &|vault| digits.len() >= ID_DIGITS_MIN && vault.id.to_hex().starts_with(&digits),
    ];
    for way in ways {
        let found: Vec<&VaultOf> = vaults.iter().filter(|vault| way(vault)).collect();
        match found[..] {
            [] => {}
            [one] => return Ok(one),
            _ => {
                let hint = format!("say which: {}", list(&found));
                return Err(hinted(Code::NoVault, format!("there are several vaults {name}"), hint));
            }
        }
    }
    Err(none(name, vaults))
}

/// The vault that is meant where none is named: the account's own of its name, else its only own. One that somebody else
/// made, or gave, is never meant; one that `opens` says the account cannot open only where there is no other.
///
/// # Errors
/// Exit 10: there is none.
pub fn default<'a>(
    vaults: &'a [VaultOf],
    account: &str,
    opens: impl Fn(&VaultOf) -> bool,
) -> anyhow::Result<&'a VaultOf> {
    let mut own: Vec<&VaultOf> = vaults.iter().filter(|vault| vault.owner == account && vault.is_own()).collect();
    if own.len() > 1 && own.iter().any(|vault| opens(vault)) {
        own.retain(|vault| opens(vault));
    }
    let of_name = own.iter().find(|vault| fold(&vault.name) == fold(account));
    match (of_name, &own[..]) {
        (Some(vault), _) | (None, [vault]) => Ok(vault),
        (None, _) => Err(none("", vaults)),
    }
}

fn none(name: &str, vaults: &[VaultOf]) -> anyhow::Error {
    let hint = match vaults.is_empty() {
        true => "`twinkeep vault create NAME` makes one".to_owned(),
        false => format!("there are: {}", list(&vaults.iter().collect::<Vec<_>>())),
    };
    let text = if name.is_empty() { "no vault was named".to_owned() } else { format!("there is no vault {name}") };
    hinted(Code::NoVault, text, hint)
}

fn list(vaults: &[&VaultOf]) -> String {
    vaults.iter().map(|vault| location(vault)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinkeep_engine::id::VaultId;

    fn vault(id: u8, owner: &str, name: &str, wrapped: usize) -> VaultOf {
        VaultOf {
            id: VaultId([id; 16]),
            name: name.into(),
            kind: "shared".into(),
            owner: owner.into(),
            members: Vec::new(),
            for_company: true,
            wrapped: vec![1; wrapped],
        }
    }

    #[test]
    fn a_name_means_one_vault() {
        let vaults = [
            vault(0x10, "bert", "anna", 80),
            vault(0x20, "anna", "anna", 72),
            vault(0x30, "bert", "team", 80),
            vault(0x40, "carla", "team", 80),
            vault(0x50, "carla", "plans", 80),
            vault(0x60, "anna", "plans", 72),
            vault(0x70, "dora", "Sales", 80),
        ];
        let check = |name: &str, expected: Option<u8>| {
            let found = named(&vaults, "anna", name).ok().map(|vault| vault.id.0[0]);
            assert_eq!(found, expected, "{name}");
        };
        check("anna", Some(0x20));
        check("bert/anna", Some(0x10));
        check("team", None);
        check("carla/team", Some(0x40));
        check("plans", Some(0x60));
        check("sales", Some(0x70));
        check("70707070", Some(0x70));
        check("7070", None);
        check("nothing", None);
        assert_eq!(default(&vaults, "anna", |_| true).unwrap().id.0[0], 0x20);
    }

    #[test]
    fn a_vault_that_does_not_open_any_more_is_not_meant() {
        let vaults = [vault(0x10, "anna", "anna", 72), vault(0x20, "anna", "second", 72)];
        let meant = |vaults: &[VaultOf], opens: &[u8]| {
            default(vaults, "anna", |vault| opens.contains(&vault.id.0[0])).ok().map(|vault| vault.id.0[0])
        };
        assert_eq!(meant(&vaults, &[0x10, 0x20]), Some(0x10));
        assert_eq!(meant(&vaults, &[0x20]), Some(0x20), "the one that was made after a reset");
        assert_eq!(meant(&vaults, &[]), Some(0x10), "which says what is wrong with it");
    }

    #[test]
    fn nobody_slips_a_vault_in_for_ones_own() {
        let own = vault(0x20, "anna", "first", 72);
        let slipped = vault(0x10, "bert", "anna", 80);
        let posing = vault(0x11, "anna", "anna", 80);
        assert_eq!(default(&[slipped.clone(), posing.clone(), own], "anna", |_| true).unwrap().id.0[0], 0x20);
        assert!(default(&[slipped, posing], "anna", |_| true).is_err());
        assert!(default(&[], "anna", |_| true).is_err());
        let two = [vault(1, "anna", "one", 72), vault(2, "anna", "two", 72)];
        assert!(default(&two, "anna", |_| true).is_err(), "which of the two is not said");
    }
}
