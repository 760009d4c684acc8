package gateway_test

const clusterService = "/granary.v1.ClusterService/"
