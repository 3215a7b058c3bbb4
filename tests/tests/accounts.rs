//! Accounts, vaults and devices of an office of real processes.

#[path = "accounts/devices.rs"]
mod devices;
#[path = "accounts/kit.rs"]
mod kit;
#[path = "accounts/shared.rs"]
mod shared;
