//! Stepping back behind everybody else: the least share of processor and disk.

/// Lets this process work only while nobody else wants to: nice 19, and the idle class of disk access. Best effort: a
/// system that refuses is slowed down a little, and nothing else.
pub fn step_back() {
    // Never less polite than we were started.
    let _ = rustix::process::nice(19);
    #[cfg(target_os = "linux")]
    idle_disk();
}

/// The scheduling class of disk access, for all threads this one starts.
#[cfg(target_os = "linux")]
fn idle_disk() {
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_IDLE: libc::c_int = 3;
    const CLASS_SHIFT: libc::c_int = 13;
    // SAFETY: the call takes three numbers and touches no memory of ours; 0 means the calling thread.
    let _ = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, CLASS_IDLE << CLASS_SHIFT) };
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(target_os = "linux")]
    fn a_thread_steps_back() {
        std::thread::spawn(|| {
            super::idle_disk();
            // SAFETY: as above.
            let class = unsafe { libc::syscall(libc::SYS_ioprio_get, 1, 0) };
            // Where the kernel has no classes the call fails.
            assert!(class < 0 || class >> 13 == 3, "{class}");
        })
        .join()
        .unwrap();
    }
}
