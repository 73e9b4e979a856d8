//! The TLS provider that `main` installs in the product.

use std::sync::LazyLock;

static INSTALLED: LazyLock<()> = LazyLock::new(|| {
    // An error says that another test of this process was first: what it installed is the same.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
});

/// Installs AWS-LC as this process's TLS provider, once; any number of calls is fine.
pub fn install_crypto() {
    LazyLock::force(&INSTALLED);
}
