//! The certificate that is served at the moment.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::certificate::{CertificateError, Pair, provider};

/// One for all connections; a new one counts for those that come.
#[derive(Debug)]
pub(super) struct Serving(Mutex<Arc<CertifiedKey>>);

// === impl Serving ===

impl Serving {
    pub(super) fn new(pair: &Pair) -> Result<Self, CertificateError> {
        Ok(Self(Mutex::new(Arc::new(pair.certified()?))))
    }

    /// Serves another one from now on.
    pub(super) fn serve(&self, pair: &Pair) -> Result<(), CertificateError> {
        let certified = Arc::new(pair.certified()?);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = certified;
        Ok(())
    }

    pub(super) fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

/// A TLS server that serves it. No client is asked for a certificate: the API server has none to show unless it is
/// told to (`--admission-control-config-file`), and what is answered is no secret and changes nothing.
pub(super) fn tls(serving: Arc<Serving>) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(serving);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
