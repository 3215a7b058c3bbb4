//! The binary's allocator, and how soon it gives memory back.
//!
//! Frames and buffers of some MiB come and go all the time. By default mimalloc keeps what was freed for a second
//! before the system has it back, and much else is in use by then: backing up 300 000 small files had 148 MB where
//! 100 MB do, in the same time.

use libmimalloc_sys::{mi_option_set_default, mi_option_t};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay`, which the bindings do not name.
const PURGE_DELAY: mi_option_t = 15;

const PURGE_DELAY_MS: core::ffi::c_long = 1;

/// To be called before anything large is allocated. What `MIMALLOC_PURGE_DELAY` says goes first.
pub fn tune() {
    // SAFETY: sets a number in a table of mimalloc's own, which has this option.
    unsafe { mi_option_set_default(PURGE_DELAY, PURGE_DELAY_MS) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use libmimalloc_sys::mi_option_get;

    #[test]
    fn it_is_that_option() {
        // SAFETY: reads a number.
        let get = || unsafe { mi_option_get(PURGE_DELAY) };
        // mimalloc's default. An update that gives this number to another option shows here.
        assert_eq!(get(), 1000);
        tune();
        assert_eq!(get(), PURGE_DELAY_MS);
    }
}
