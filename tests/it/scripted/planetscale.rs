//! planetscale
