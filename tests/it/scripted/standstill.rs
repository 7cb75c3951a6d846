//! standstill
