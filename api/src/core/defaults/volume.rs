//! Defaults of volumes: image volumes, and the kinds that manifests of a node use beside them.

use crate::corev1::{DownwardAPIVolumeFile, EmptyDirVolumeSource, ProjectedVolumeSource, Volume};

use super::super::validation::source_fields;
use super::{default_pull_policy, default_text, default_value};

/// Mode of projected files (core/v1, `SecretVolumeSourceDefaultMode` and its kin).
const FILE_MODE: i32 = 0o644;
/// Seconds (`SetDefaults_ServiceAccountTokenProjection`: an hour).
const TOKEN_EXPIRATION: i64 = 3_600;

pub(super) fn set_defaults(volume: &mut Volume) {
    if !source_fields(volume).any(|(_, present)| present) {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(image) = &mut volume.image {
        let policy = default_pull_policy(image.reference.as_deref().unwrap_or_default());
        default_text(&mut image.pull_policy, policy);
    }
    volume.host_path.iter_mut().for_each(|host| default_value(&mut host.type_, String::new()));
    volume.secret.iter_mut().for_each(|secret| default_value(&mut secret.default_mode, FILE_MODE));
    volume.config_map.iter_mut().for_each(|map| default_value(&mut map.default_mode, FILE_MODE));
    if let Some(downward) = &mut volume.downward_api {
        downward.default_mode.get_or_insert(FILE_MODE);
        set_defaults_files(downward.items.as_mut());
    }
    volume.projected.iter_mut().for_each(set_defaults_projected);
    if let Some(claim) = volume.ephemeral.as_mut().and_then(|ephemeral| ephemeral.volume_claim_template.as_mut()) {
        default_text(&mut claim.spec.volume_mode, "Filesystem");
    }
}

fn set_defaults_projected(projected: &mut ProjectedVolumeSource) {
    projected.default_mode.get_or_insert(FILE_MODE);
    for source in projected.sources.iter_mut().flatten() {
        if let Some(token) = &mut source.service_account_token {
            default_value(&mut token.expiration_seconds, TOKEN_EXPIRATION);
        }
        set_defaults_files(source.downward_api.as_mut().and_then(|downward| downward.items.as_mut()));
    }
}

fn set_defaults_files(files: Option<&mut Vec<DownwardAPIVolumeFile>>) {
    let fields = files.into_iter().flatten().filter_map(|file| file.field_ref.as_mut());
    fields.for_each(|field| default_text(&mut field.api_version, "v1"));
}
