//! The Container Storage Interface 1.12 (`csi.v1`): messages, clients and servers, made from `proto/csi/v1/csi.proto`.
//!
//! Whatever may hold secrets does not show them in `Debug`.

use std::collections::BTreeMap;
use std::fmt;

#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "made from the protocol by tonic and prost"
)]
mod generated {
    tonic::include_proto!("csi.v1");
}

pub use generated::*;

/// Says which keys there are, and nothing of their values.
struct Keys<'a>(&'a BTreeMap<String, String>);

impl fmt::Debug for Keys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.keys().map(|key| (key, format_args!("[redacted]")))).finish()
    }
}

impl fmt::Debug for volume_capability::MountVolume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MountVolume")
            .field("fs_type", &self.fs_type)
            .field("mount_flags", &format_args!("[{} redacted]", self.mount_flags.len()))
            .field("volume_mount_group", &self.volume_mount_group)
            .finish()
    }
}

impl fmt::Debug for NodeStageVolumeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeStageVolumeRequest")
            .field("volume_id", &self.volume_id)
            .field("publish_context", &Keys(&self.publish_context))
            .field("staging_target_path", &self.staging_target_path)
            .field("volume_capability", &self.volume_capability)
            .field("secrets", &Keys(&self.secrets))
            .field("volume_context", &Keys(&self.volume_context))
            .finish()
    }
}

impl fmt::Debug for NodePublishVolumeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodePublishVolumeRequest")
            .field("volume_id", &self.volume_id)
            .field("publish_context", &Keys(&self.publish_context))
            .field("staging_target_path", &self.staging_target_path)
            .field("target_path", &self.target_path)
            .field("volume_capability", &self.volume_capability)
            .field("readonly", &self.readonly)
            .field("secrets", &Keys(&self.secrets))
            .field("volume_context", &Keys(&self.volume_context))
            .finish()
    }
}

impl fmt::Debug for NodeExpandVolumeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeExpandVolumeRequest")
            .field("volume_id", &self.volume_id)
            .field("volume_path", &self.volume_path)
            .field("capacity_range", &self.capacity_range)
            .field("staging_target_path", &self.staging_target_path)
            .field("volume_capability", &self.volume_capability)
            .field("secrets", &Keys(&self.secrets))
            .finish()
    }
}

impl fmt::Debug for CreateVolumeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateVolumeRequest")
            .field("name", &self.name)
            .field("capacity_range", &self.capacity_range)
            .field("volume_capabilities", &self.volume_capabilities)
            .field("parameters", &Keys(&self.parameters))
            .field("secrets", &Keys(&self.secrets))
            .finish()
    }
}

impl fmt::Debug for DeleteVolumeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeleteVolumeRequest")
            .field("volume_id", &self.volume_id)
            .field("secrets", &Keys(&self.secrets))
            .finish()
    }
}

impl fmt::Debug for ValidateVolumeCapabilitiesRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValidateVolumeCapabilitiesRequest")
            .field("volume_id", &self.volume_id)
            .field("volume_context", &Keys(&self.volume_context))
            .field("volume_capabilities", &self.volume_capabilities)
            .field("parameters", &Keys(&self.parameters))
            .field("secrets", &Keys(&self.secrets))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    const PLANTED: &str = "hunter2-planted";

    fn planted() -> BTreeMap<String, String> {
        BTreeMap::from([("key".to_owned(), PLANTED.to_owned())])
    }

    fn capability() -> VolumeCapability {
        let mount = volume_capability::MountVolume { mount_flags: vec![PLANTED.to_owned()], ..Default::default() };
        VolumeCapability { access_type: Some(volume_capability::AccessType::Mount(mount)), access_mode: None }
    }

    #[test]
    fn no_request_shows_its_secrets() {
        let publish = NodePublishVolumeRequest {
            volume_id: "v".to_owned(),
            publish_context: planted(),
            volume_capability: Some(capability()),
            secrets: planted(),
            volume_context: planted(),
            ..Default::default()
        };
        let stage = NodeStageVolumeRequest {
            secrets: planted(),
            volume_context: planted(),
            ..NodeStageVolumeRequest::default()
        };
        let create =
            CreateVolumeRequest { secrets: planted(), parameters: planted(), ..CreateVolumeRequest::default() };
        let delete = DeleteVolumeRequest { secrets: planted(), ..DeleteVolumeRequest::default() };
        let expand = NodeExpandVolumeRequest { secrets: planted(), ..NodeExpandVolumeRequest::default() };
        let validate = ValidateVolumeCapabilitiesRequest {
            secrets: planted(),
            volume_context: planted(),
            ..ValidateVolumeCapabilitiesRequest::default()
        };
        let shown = format!("{publish:?} {stage:?} {create:?} {delete:?} {expand:?} {validate:?}");
        assert!(!shown.contains(PLANTED), "{shown}");
        assert!(shown.contains(r#"secrets: {"key": [redacted]}"#) && shown.contains("mount_flags: [1 redacted]"));
    }

    // The bytes are worked out by hand from the numbers in the specification: (number << 3 | wire type), length, content.
    #[test]
    fn numbers_are_those_of_the_specification() {
        let publish = NodePublishVolumeRequest {
            volume_id: "v".to_owned(),
            staging_target_path: "s".to_owned(),
            target_path: "t".to_owned(),
            readonly: true,
            ..Default::default()
        };
        assert_eq!(publish.encode_to_vec(), b"\x0a\x01v\x1a\x01s\x22\x01t\x30\x01");
        let pair = |key: &str| BTreeMap::from([(key.to_owned(), String::new())]);
        let maps = NodePublishVolumeRequest {
            publish_context: pair("p"),
            secrets: pair("s"),
            volume_context: pair("c"),
            ..Default::default()
        };
        assert_eq!(maps.encode_to_vec(), b"\x12\x03\x0a\x01p\x3a\x03\x0a\x01s\x42\x03\x0a\x01c");
        let usage = VolumeUsage { available: 1, total: 2, used: 3, unit: volume_usage::Unit::Inodes.into() };
        assert_eq!(usage.encode_to_vec(), b"\x08\x01\x10\x02\x18\x03\x20\x02");
        assert_eq!(ProbeResponse { ready: Some(true) }.encode_to_vec(), b"\x0a\x02\x08\x01");
    }
}
