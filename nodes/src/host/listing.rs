//! The signed list of the office's machines, as machines are given it.

use super::{Host, lock};
use crate::tracker::nodelist::{NodeList, NodeListError};
use std::sync::{Arc, Mutex};

/// The newest list; signed anew only when a machine came, went or was revoked.
#[derive(Default)]
pub struct Listing(Mutex<Option<Signed>>);

/// A list, and the same as bytes.
#[derive(Clone)]
pub struct Signed {
    /// What it says.
    pub list: NodeList,
    /// Signed by the company's authority.
    pub bytes: Arc<Vec<u8>>,
}

impl Listing {
    /// The list as it is now.
    ///
    /// # Errors
    /// There are too many machines for one list.
    pub fn now(&self, host: &Host) -> Result<Signed, NodeListError> {
        let (key, name) = (host.key(), &host.identity.name);
        let list = host.office.read(|registry| NodeList::of(registry, key, name))?;
        let mut newest = lock(&self.0);
        if let Some(signed) = &*newest
            && (signed.list.generation(), signed.list.nodes()) == (list.generation(), list.nodes())
        {
            return Ok(signed.clone());
        }
        let bytes = Arc::new(list.encode(&host.identity.authority));
        Ok(newest.insert(Signed { list, bytes }).clone())
    }
}
