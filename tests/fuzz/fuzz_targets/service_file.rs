//! Any bytes: the service file is read or refused, and every option in it is one of libpq's.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use walring::edge::service;
use walring::edge::settings::Settings;

fuzz_target!(|bytes: &[u8]| {
    for name in ["a", "", "a]b"] {
        if let Ok(Some(pairs)) = service::definition(bytes, name, Path::new("file")) {
            let mut settings = Settings::default();
            for (keyword, value) in pairs {
                assert!(settings.fill(&keyword, &value), "{keyword}");
                assert!(!value.contains(['\n', '\0']));
            }
        }
    }
});
