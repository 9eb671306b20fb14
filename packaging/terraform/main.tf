# An example that hands over to Ansible: hosts that some provider has made (here: given as a variable, so that it is the same for each of them) become an
# inventory for packaging/ansible, and the addresses that clients need become outputs.
# It was never applied (README.md): its text is checked, what Terraform makes of it is not.
#
#   terraform init && terraform apply -var-file=orders.tfvars
#   ansible-playbook -i inventory.ini ../ansible/site.yml

terraform {
  required_version = ">= 1.3"
  required_providers {
    local = {
      source  = "hashicorp/local"
      version = "~> 2.4"
    }
  }
}

variable "cluster" {
  description = "The name that all nodes share"
  type        = string
}

variable "nodes" {
  description = "The database hosts: name to private address. From a provider, for instance: { for vm in openstack_compute_instance_v2.pg : vm.name => vm.access_ip_v4 }"
  type        = map(string)

  validation {
    condition     = length(var.nodes) >= 3
    error_message = "Three nodes keep an acknowledged write through the loss of any one: with fewer, read docs/small-clusters.md first."
  }
}

variable "etcd_endpoints" {
  description = "The members of etcd, on hosts of their own"
  type        = list(string)
}

variable "package" {
  description = "The package that make deb has made"
  type        = string
  default     = "../../target/deb/pgvigil_0.1.0_amd64.deb"
}

variable "hba" {
  description = "Who may connect, in lines of pg_hba.conf"
  type        = list(string)
  default     = []
}

resource "local_file" "inventory" {
  filename        = "${path.module}/inventory.ini"
  file_permission = "0644"
  content = templatefile("${path.module}/inventory.ini.tftpl", {
    cluster        = var.cluster
    nodes          = var.nodes
    etcd_endpoints = var.etcd_endpoints
    package        = abspath(var.package)
    hba            = var.hba
  })
}

output "uri_rw" {
  description = "For clients that look for the primary themselves"
  value       = "postgresql://${join(",", [for address in values(var.nodes) : "${address}:5432"])}/postgres?target_session_attrs=read-write&connect_timeout=2"
}

output "uri_ro" {
  description = "The same for reads from a standby"
  value       = "postgresql://${join(",", [for address in values(var.nodes) : "${address}:5432"])}/postgres?target_session_attrs=prefer-standby&connect_timeout=2"
}
