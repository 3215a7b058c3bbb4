//! A stream of frames into whatever takes them.

use super::problem::{Problem, Why, problem};
use crate::work::Work;
use capnp::Error;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use twinkeep_engine::limits::FRAME_LEN_MAX;
use twinkeep_schema::office_capnp::upload;

/// Takes frames, and verifies them first.
pub trait FrameTarget: Send + Sync + 'static {
    /// Takes one.
    ///
    /// # Errors
    /// It is not what it should be, or there is no room: nothing after it is taken.
    fn take(&self, bytes: Vec<u8>) -> Result<(), Problem>;
}

/// See the module.
pub struct UploadServer<T> {
    target: Arc<T>,
    work: Work,
    taken: Cell<u64>,
    problem: RefCell<Option<Problem>>,
    begin: Box<dyn Fn() -> Result<Box<dyn std::any::Any>, Problem>>,
}

impl<T: FrameTarget> UploadServer<T> {
    /// A stream into a target; `begin` is asked before each call, and what it gives is held meanwhile.
    pub fn new(
        target: Arc<T>,
        work: Work,
        begin: impl Fn() -> Result<Box<dyn std::any::Any>, Problem> + 'static,
    ) -> Self {
        Self { target, work, taken: Cell::new(0), problem: RefCell::default(), begin: Box::new(begin) }
    }

    async fn take(&self, params: upload::PutParams) -> Result<(), Problem> {
        let _call = (self.begin)()?;
        let frame = params.get().and_then(|params| params.get_frame()).map_err(Problem::from)?;
        if frame.len() > FRAME_LEN_MAX {
            return Err(no_frame(format!("it has {} bytes, at most {FRAME_LEN_MAX} allowed", frame.len())));
        }
        let (bytes, target) = (frame.to_vec(), self.target.clone());
        // The message is kept until then: so what waits here is counted.
        let taken = self.work.run(move || target.take(bytes)).await;
        drop(params);
        taken
    }
}

impl<T: FrameTarget> upload::Server for UploadServer<T> {
    async fn put(self: Rc<Self>, params: upload::PutParams) -> Result<(), Error> {
        // A stream that breaks says nothing of why: the reason is told at its end.
        if self.problem.borrow().is_none() {
            match self.take(params).await {
                Ok(()) => self.taken.set(self.taken.get() + 1),
                Err(error) => drop(self.problem.borrow_mut().get_or_insert(error).clone()),
            }
        }
        Ok(())
    }

    async fn done(self: Rc<Self>, _params: upload::DoneParams, mut results: upload::DoneResults) -> Result<(), Error> {
        let _call = (self.begin)()?;
        let mut results = results.get();
        results.set_frames(self.taken.get());
        if let Some(problem) = &*self.problem.borrow() {
            results.set_problem(&Error::from(problem.clone()).extra[..]);
        }
        Ok(())
    }
}

/// Bytes that are no frame as expected.
pub fn no_frame(text: impl std::fmt::Display) -> Problem {
    problem(Why::Usage, format!("what was sent is no frame of this session: {text}"))
}
