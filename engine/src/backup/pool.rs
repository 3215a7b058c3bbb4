//! The one place where workers meet besides the store: what is still to do.
//!
//! No worker ever waits for another to start something: whoever needs a result works on what is there until it has
//! come. So one worker alone finishes every job, and a run on one thread repeats exactly.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Work of two sorts. `T` is for tasks that spread out: each worker has its own, last in first out, which keeps its walk
/// narrow and what it stores together in one part of the tree; who has none left takes another's oldest, which is the
/// farthest from what that one is doing. `B` is for pieces of a large file, first in first out and few at a time, so
/// that memory is bounded.
pub(super) struct Pool<T, B, E> {
    state: Mutex<State<T, B, E>>,
    changed: Condvar,
    batches_max: usize,
}

struct State<T, B, E> {
    /// By worker, the oldest first.
    tasks: Vec<VecDeque<T>>,
    batches: VecDeque<B>,
    waiting: usize,
    finished: bool,
    failure: Option<E>,
}

/// What to do next.
pub(super) enum Next<T, B> {
    Task(T),
    Batch(B),
    /// Nothing now: do what is left undone of your own, then call `wait`.
    Idle,
    /// Nothing any more.
    Finished,
}

impl<T, B, E> Pool<T, B, E> {
    /// Nothing to do yet for so many workers.
    pub fn new(workers: usize) -> Self {
        let tasks = (0..workers).map(|_| VecDeque::new()).collect();
        let state = State { tasks, batches: VecDeque::new(), waiting: 0, finished: false, failure: None };
        Self { state: Mutex::new(state), changed: Condvar::new(), batches_max: workers }
    }

    fn lock(&self) -> MutexGuard<'_, State<T, B, E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds tasks to a worker's own; the first of them is done first.
    pub fn push(&self, worker: usize, tasks: impl DoubleEndedIterator<Item = T>) {
        self.lock().tasks[worker].extend(tasks.rev());
        self.changed.notify_all();
    }

    /// Offers a batch to others; gives it back when enough are waiting already.
    pub fn offer(&self, batch: B) -> Option<B> {
        let mut state = self.lock();
        if state.waiting == 0 && state.batches.len() >= self.batches_max {
            return Some(batch);
        }
        if state.batches.len() >= 2 * self.batches_max {
            return Some(batch);
        }
        state.batches.push_back(batch);
        drop(state);
        self.changed.notify_one();
        None
    }

    /// A batch if one waits.
    pub fn batch(&self) -> Option<B> {
        self.lock().batches.pop_front()
    }

    /// What a worker is to do next; never waits.
    pub fn next(&self, worker: usize) -> Next<T, B> {
        let mut state = self.lock();
        if state.finished {
            return Next::Finished;
        }
        if let Some(batch) = state.batches.pop_front() {
            return Next::Batch(batch);
        }
        if let Some(own) = state.tasks[worker].pop_back() {
            return Next::Task(own);
        }
        state.tasks.iter_mut().find_map(VecDeque::pop_front).map_or(Next::Idle, Next::Task)
    }

    /// Waits until there may be something to do, or `done` holds.
    pub fn wait(&self, done: impl Fn() -> bool) {
        let mut state = self.lock();
        while !state.finished && state.tasks.iter().all(VecDeque::is_empty) && state.batches.is_empty() && !done() {
            state.waiting += 1;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
    }

    /// Waits until a batch is there, `done` holds or all is over. For one who may not begin a new task.
    pub fn wait_for_batch(&self, done: impl Fn() -> bool) {
        let mut state = self.lock();
        while !state.finished && state.batches.is_empty() && !done() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Wakes everybody who waits for something that has just become true.
    pub fn wake(&self) {
        // Taken so that nobody is between looking and falling asleep.
        drop(self.lock());
        self.changed.notify_all();
    }

    /// Ends the work.
    pub fn finish(&self) {
        self.lock().finished = true;
        self.changed.notify_all();
    }

    /// Ends the work with an error; the first one counts that is no echo of another worker's.
    pub fn fail(&self, error: E, is_echo: impl Fn(&E) -> bool) {
        let mut state = self.lock();
        if state.failure.as_ref().is_none_or(is_echo) {
            state.failure = Some(error);
        }
        state.finished = true;
        drop(state);
        self.changed.notify_all();
    }

    /// Ends the work when the thread that holds the result panics: nobody waits for what it would have done.
    pub fn end_on_panic(&self) -> EndOnPanic<'_, T, B, E> {
        EndOnPanic(self)
    }

    /// Whether the work has ended.
    pub fn is_over(&self) -> bool {
        self.lock().finished
    }

    /// The failure that counts.
    pub fn into_failure(self) -> Option<E> {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).failure
    }
}

/// See [`Pool::end_on_panic`].
pub(super) struct EndOnPanic<'p, T, B, E>(&'p Pool<T, B, E>);

impl<T, B, E> Drop for EndOnPanic<'_, T, B, E> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.finish();
        }
    }
}
