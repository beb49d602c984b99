//! Keys, CSRs, signing, verification and rotation schedules
