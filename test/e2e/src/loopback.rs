//! A registry in the test's process, which counts and misbehaves, for drivers on this machine.

use std::ops::Deref;
use std::time::Duration;

use imagevol_test_support::registry::{FakeRegistry, Gate};
use tokio::runtime::{Builder, Runtime};

/// A [`FakeRegistry`] on a free port of loopback, for tests that are not asynchronous.
#[derive(Debug)]
pub struct LoopbackRegistry {
    registry: FakeRegistry,
    runtime: Runtime,
}

impl LoopbackRegistry {
    /// Listens.
    pub fn start() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let registry = runtime.block_on(FakeRegistry::start());
        Self { registry, runtime }
    }

    /// Waits until so many requests stand before the gate.
    pub fn await_arrivals(&self, gate: &Gate, count: usize, within: Duration) {
        let arrived = self.runtime.block_on(async { tokio::time::timeout(within, gate.arrived(count)).await });
        assert!(arrived.is_ok(), "{count} requests did not come within {within:?}: {:#?}", self.registry.requests());
    }
}

impl Deref for LoopbackRegistry {
    type Target = FakeRegistry;

    fn deref(&self) -> &FakeRegistry {
        &self.registry
    }
}
