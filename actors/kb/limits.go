package kb

// Tier names a tenant's subscription.
type Tier string

// The tiers.
const (
	TierStarter      Tier = "starter"
	TierProfessional Tier = "professional"
	TierEnterprise   Tier = "enterprise"
	// TierUnlimited is for development servers only, such as those of load tests.
	TierUnlimited Tier = "unlimited"
)

// Unlimited is a limit that nobody reaches.
const Unlimited = 1 << 40

// Limits are what a tenant may use (requirement B4).
type Limits struct {
	ConcurrentProcessing      int64 `json:"concurrent_processing"`
	DocumentsPerKB            int64 `json:"documents_per_kb"`
	StorageBytes              int64 `json:"storage_bytes"`
	APICallsPerHour           int64 `json:"api_calls_per_hour"`
	VectorOperationsPerMinute int64 `json:"vector_operations_per_minute"`
}

const gigabyte = 1_000_000_000

// LimitsOf gives a tier's limits; ok is false for an unknown tier.
func LimitsOf(t Tier) (l Limits, ok bool) {
	switch t {
	case TierStarter:
		return Limits{5, 1_000, 10 * gigabyte, 1_000, 100}, true
	case TierProfessional:
		return Limits{20, 10_000, 100 * gigabyte, 10_000, 500}, true
	case TierEnterprise:
		return Limits{100, 100_000, 1_000 * gigabyte, 100_000, 2_000}, true
	case TierUnlimited:
		return Limits{Unlimited, Unlimited, 1 << 60, Unlimited, Unlimited}, true
	}
	return Limits{}, false
}
