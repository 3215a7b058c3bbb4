//! Walks a tree with a visitor that may fail; folders that are damaged are warned about and counted.

pub use twinkeep_engine::query::WalkEntry;
use twinkeep_engine::query::{self, Step, TreeRoot};
use twinkeep_engine::vault::Vault;

use crate::error::{Code, one_line};
use crate::screen::Screen;

/// What becomes of a walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Seen {
    /// Everything that was to be visited.
    All,
    /// All but what stands in damaged folders.
    Part,
}

impl Seen {
    /// The exit code it leads to.
    pub fn code(self) -> Code {
        match self {
            Self::All => Code::Done,
            Self::Part => Code::Damaged,
        }
    }

    /// Both together.
    pub fn and(self, other: Self) -> Self {
        if self == Self::All { other } else { Self::Part }
    }
}

/// Visits everything below `root`, depth first; the first error of the visitor ends it.
///
/// # Errors
/// The visitor's, or that the vault cannot be read at all.
pub fn each(
    screen: &Screen,
    vault: &Vault,
    root: &TreeRoot,
    visit: &mut dyn FnMut(&WalkEntry<'_>) -> anyhow::Result<Step>,
) -> anyhow::Result<Seen> {
    let mut failure = None;
    let mut seen = Seen::All;
    let mut on_entry = |entry: &WalkEntry<'_>| match visit(entry) {
        Ok(step) => step,
        Err(error) => {
            failure = Some(error);
            Step::Stop
        }
    };
    let mut on_damage = |damage: &query::Damage<'_>| {
        seen = Seen::Part;
        let why = one_line(&anyhow::anyhow!("{}", damage.error));
        screen.warn(Some(damage.path), &format!("the folder is damaged, what is left of it is not shown: {why}"));
        true
    };
    query::walk(vault, root, &mut on_entry, &mut on_damage)?;
    failure.map_or(Ok(seen), Err)
}
