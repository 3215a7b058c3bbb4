//! The office: log and registry together, for the one process that writes them.
//!
//! What always holds: what [`Office::read`] shows was durable before; what cannot happen is not written; after a write
//! that failed nothing more is written before it is known what became of it.

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use twinkeep_engine::env::Env;
use twinkeep_engine::files::{Files, FilesError, Lock};

use super::event::{AuditKind, Event};
use super::log::{Actor, Entry, Log, LogError, Tip, path};
use super::registry::{Registry, RegistryError};
use super::sign::{AuthorityKey, SigningKey};

/// Held by the process that writes.
pub const LOCK_PATH: &str = "locks/office";

/// Most entries that [`Office::audit`] gives at once.
pub const AUDIT_COUNT_MAX: usize = 1000;

/// The office cannot be opened or changed.
#[derive(Debug, thiserror::Error)]
pub enum OfficeError {
    /// The log cannot be read or extended.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A file operation failed.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// Another process writes.
    #[error("{LOCK_PATH} is held: another process runs this office")]
    Locked,
    /// It cannot happen; nothing was written.
    #[error(transparent)]
    Refused(#[from] RegistryError),
    /// A signed entry of the log cannot have happened.
    #[error("{path} says what cannot be: {source}")]
    Contradiction {
        /// Its file.
        path: String,
        /// What is wrong.
        #[source]
        source: RegistryError,
    },
    /// Generations only grow.
    #[error("generation {found} is not larger than {least}")]
    Generation {
        /// The generation now.
        least: u64,
        /// The generation asked for.
        found: u64,
    },
}

/// Log and registry.
pub struct Office {
    env: Env,
    authority: SigningKey,
    state: Mutex<State>,
    /// Changes with the log, under its lock. Apart from it: who reads does not wait until an entry is durable.
    registry: RwLock<Arc<Registry>>,
    /// Why the last entry could not be written, if it could not.
    refused: Mutex<Option<String>>,
    _lock: Box<dyn Lock>,
}

struct State {
    log: Log,
    generation: u64,
}

impl Office {
    /// Makes the office of this authority: its log with a first entry. Fails where there is a log already.
    pub fn create(files: Arc<dyn Files>, env: Env, authority: SigningKey) -> Result<Self, OfficeError> {
        files.create_dir("locks")?;
        let lock = lock(&*files)?;
        let log = Log::create(files, authority.authority())?;
        let state = Mutex::new(State { log, generation: 1 });
        let office =
            Self { env, authority, state, registry: RwLock::default(), refused: Mutex::default(), _lock: lock };
        office.append(Actor::Host, note("the office was made"))?;
        Ok(office)
    }

    /// Reads the whole log and opens the office for writing.
    pub fn open(files: Arc<dyn Files>, env: Env, authority: SigningKey) -> Result<Self, OfficeError> {
        files.create_dir("locks")?;
        let lock = lock(&*files)?;
        let (log, registry) = load(files, authority.authority())?;
        let generation = log.tip().generation;
        let state = Mutex::new(State { log, generation });
        Ok(Self {
            env,
            authority,
            state,
            registry: RwLock::new(Arc::new(registry)),
            refused: Mutex::default(),
            _lock: lock,
        })
    }

    /// Writes that something happened and gives its sequence: durable, and from now on in the registry.
    /// What cannot be is refused and not written.
    pub fn append(&self, actor: Actor, event: Event) -> Result<u64, OfficeError> {
        let mut state = self.state();
        let generation = state.generation;
        let done = self.append_in(&mut state, generation, actor, event);
        // What cannot be says nothing of the disk.
        if !matches!(done, Err(OfficeError::Refused(_))) {
            let refused = done.as_ref().err().map(ToString::to_string);
            *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
        }
        done
    }

    /// Why the last entry could not be written; nothing where it could.
    pub fn refused(&self) -> Option<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether something could be written now; nothing is.
    ///
    /// # Errors
    /// What cannot be.
    pub fn check(&self, actor: Actor, event: Event) -> Result<(), OfficeError> {
        let state = self.state();
        let entry = state.log.next(state.generation, self.env.clock.now(), actor, event);
        Ok(Registry::clone(&self.registry()).apply(&entry)?)
    }

    /// Begins a larger generation; durable when this returns.
    pub fn raise_generation(&self, generation: u64) -> Result<u64, OfficeError> {
        let mut state = self.state();
        if generation <= state.generation {
            return Err(OfficeError::Generation { least: state.generation, found: generation });
        }
        let event = note("a new generation of the host began");
        let sequence = self.append_in(&mut state, generation, Actor::Host, event)?;
        state.generation = generation;
        Ok(sequence)
    }

    /// Looks at the registry as it is now. Writers do not wait for it.
    pub fn read<T>(&self, look: impl FnOnce(&Registry) -> T) -> T {
        let registry = self.registry();
        look(&registry)
    }

    /// The registry as it is now, to keep.
    pub fn registry(&self) -> Arc<Registry> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The end of the log.
    pub fn tip(&self) -> Tip {
        self.state().log.tip()
    }

    /// The authority whose office it is.
    pub fn authority(&self) -> AuthorityKey {
        self.authority.authority()
    }

    /// Signs for the office: node lists and orders.
    pub fn signing_key(&self) -> &SigningKey {
        &self.authority
    }

    /// At most `count` entries (and [`AUDIT_COUNT_MAX`]) from a sequence on.
    pub fn audit(&self, from: u64, count: usize) -> Result<Vec<Entry>, OfficeError> {
        Ok(self.state().log.read(from, count.min(AUDIT_COUNT_MAX))?)
    }

    fn append_in(&self, state: &mut State, generation: u64, actor: Actor, event: Event) -> Result<u64, OfficeError> {
        // A disk that was full has room again, or what seemed to fail was done.
        if let Some(entry) = state.log.recover()? {
            let mut registry = Registry::clone(&self.registry());
            let told = |source| OfficeError::Contradiction { path: path(entry.sequence), source };
            registry.apply(&entry).map_err(told)?;
            state.generation = entry.generation;
            self.refused.lock().unwrap_or_else(PoisonError::into_inner).take();
            *self.registry.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(registry);
        }
        let generation = generation.max(state.generation);
        let entry = state.log.next(generation, self.env.clock.now(), actor, event);
        let mut registry = Registry::clone(&self.registry());
        registry.apply(&entry)?;
        state.log.append(&entry, &self.authority)?;
        *self.registry.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(registry);
        Ok(entry.sequence)
    }

    /// A panic while it was held left it as it was before or after: each field changes at once.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads and verifies a whole log, as a standby or a check does; takes no lock.
pub fn load(files: Arc<dyn Files>, authority: AuthorityKey) -> Result<(Log, Registry), OfficeError> {
    let mut registry = Registry::new();
    let log = Log::open(files, authority, |entry| {
        let told = |source| OfficeError::Contradiction { path: path(entry.sequence), source };
        registry.apply(entry).map_err(told)
    })?;
    Ok((log, registry))
}

fn lock(files: &dyn Files) -> Result<Box<dyn Lock>, OfficeError> {
    files.try_lock(LOCK_PATH, &format!("pid {}", std::process::id()))?.ok_or(OfficeError::Locked)
}

fn note(text: &str) -> Event {
    Event::Audit { kind: AuditKind::Other, account: None, node: None, text: text.to_owned() }
}
