//! `agent.toml`.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use umsid_agent::Config;

fuzz_target!(|text: &str| {
    match Config::parse(text, Path::new("/etc/umsid/agent.toml")) {
        Ok(config) => {
            assert!(config.state_dir.is_absolute());
            assert!(config.max_backup_bytes > 0);
            assert!(config.ums.install_dir.is_none_or(|dir| dir.is_absolute()));
            if let Some(program) = &config.ums.umsadmin_cli {
                assert!(!program.parts().0.is_empty());
            }
        }
        Err(error) => assert!(error.to_string().starts_with("/etc/umsid/agent.toml, "), "{error}"),
    }
});
