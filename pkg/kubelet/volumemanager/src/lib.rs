//! imagevol-volumemanager
