//! Where blocking work runs: on threads of its own in life, on the spot in a simulation.

use crate::transport::problem::{Problem, Why, problem};

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// On the runtime's threads for blocking work.
    Threads,
    /// Right here: a simulation repeats exactly.
    Here,
}

impl Work {
    /// Does it, and waits without holding anybody else up.
    pub async fn run<T, E>(self, work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, Problem>
    where
        T: Send + 'static,
        E: Send + 'static,
        Problem: From<E>,
    {
        let done = match self {
            Self::Here => work(),
            Self::Threads => match tokio::task::spawn_blocking(work).await {
                Ok(done) => done,
                Err(_) => return Err(problem(Why::Other, "a part of the service failed; its log says more")),
            },
        };
        Ok(done?)
    }
}
