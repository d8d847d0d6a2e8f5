//! The memory of a process that holds keys.

/// From now on the memory of this process is nobody else's to read and is never written to disk as a core. Best effort: a
/// host that forbids it has its own rules about this.
///
/// The umask stays as it is, because the UMS's own programs inherit it: every file of ours is made private by name.
#[cfg(target_os = "linux")]
pub fn close_to_others() {
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

/// Elsewhere it is up to the system.
#[cfg(not(target_os = "linux"))]
pub fn close_to_others() {}
